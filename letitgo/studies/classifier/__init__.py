"""Does the classifier need training? (HHS18, arXiv:1801.04540)"""
