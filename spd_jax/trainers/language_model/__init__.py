"""Language models around a recurrent cell, trained at full size."""
