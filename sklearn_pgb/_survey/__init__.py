"""Survey of the minima that trainings from many starts reach."""
