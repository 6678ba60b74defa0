"""One file per question: the values it needs, and the rows it yields."""
