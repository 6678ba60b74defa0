"""Do the layers of deep linear networks align? A wing of its own: nothing else imports it."""
