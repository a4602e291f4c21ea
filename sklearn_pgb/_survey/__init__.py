"""Where trainings from many starts end, and how their ends stand against bounds."""
