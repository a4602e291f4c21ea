"""Order of the gallery: sections, and the examples of each."""

from pathlib import Path

SECTIONS = {
    "predict": [
        "plot_front_door.py",
        "plot_refit_trees.py",
        "plot_quickstart.py",
        "plot_torch_and_skorch.py",
        "plot_imbalanced_classes.py",
        "plot_groups.py",
        "plot_jacobian_features.py",
        "plot_resnet_basis.py",
        "plot_predictive_distribution.py",
        "sweep_on_a_cluster.py",
    ],
    "understand": [
        "plot_handcrafted_vs_induced.py",
        "plot_certificate.py",
        "plot_mislabelled.py",
        "plot_survey_minima.py",
        "plot_own_basis.py",
    ],
    "theorems": [
        "plot_saddle_escape.py",
        "plot_added_neuron.py",
        "plot_failure_mode.py",
    ],
}


def section(folder):
    """Position of a section in the gallery."""
    return list(SECTIONS).index(Path(folder).name)


class Story:
    """Position of an example in its section; examples that are not listed come last."""

    def __init__(self, folder):
        self.names = SECTIONS.get(Path(folder).name, [])

    def __call__(self, name):
        known = name in self.names
        return (self.names.index(name) if known else len(self.names), name)

    def __repr__(self):
        return "<Story>"  # Sphinx compares it with that of the last build
