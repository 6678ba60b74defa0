"""Tables, figures, the HTML page: reads measurements, computes no science."""
