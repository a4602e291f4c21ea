"""A callback that does nothing; tests add what they record."""


class Callback:
    """All methods of scikit-learn's protocol but `on_fit_task_end`."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass
