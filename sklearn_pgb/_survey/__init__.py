"""Where trainings from many starts end, and how their ends stand against bounds."""

from sklearn_pgb._survey._result import MinimaSurvey
from sklearn_pgb._survey._survey import survey_minima

__all__ = ["MinimaSurvey", "survey_minima"]
