"""What is trained on: networks, data, optimisers, schedules, by name or import path."""

from letitgo.recipes.recipe import Recipe as Recipe
