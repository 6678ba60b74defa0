"""Which weights could have been trained alone?"""
