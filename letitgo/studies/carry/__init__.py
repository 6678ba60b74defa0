"""Do lottery tickets carry over to other data and other optimisers?"""
