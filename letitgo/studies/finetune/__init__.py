"""Which layers should be frozen in fine-tuning?"""
