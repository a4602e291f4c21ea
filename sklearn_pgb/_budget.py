"""Numbers that decide about cost, accuracy and effort, with their origins.

Named numbers of the package's algorithms are here, by the part that uses them. Grids
of alphas are beside the functions that search them, and public parameters have their
defaults in signatures.
"""


def factorization_flops(n_rows: int, n_columns: int) -> float:
    """Cost of decomposing a matrix, up to a constant factor.

    It is the number of entries times the shorter side. Limits in flops use it.
    """
    return float(n_rows) * n_columns * min(n_rows, n_columns)


# --- threads ------------------------------------------------------------------

# Multiplications per thread of a step. With fewer, threads wait for each other longer
# than they work.
WORTH_A_THREAD = 1e7

# Values of X per thread that trains a user's model. With fewer, threads of trees wait
# at each node longer than they work, and if a core is taken they wait for a time slice:
# on two cores with other work, histogram boosting on 10,000 x 10 values took .05 s with
# one thread and .3 to 12 s with two; on 100,000 x 50 values 2.1 s and 3.4 s. Networks
# of scikit-learn on 1,437 x 64 values took .2 and 8 s.
VALUES_WORTH_A_THREAD = 5_000_000

# Multiplications per thread of a convex solution, which take five seconds. With fewer,
# threads save at most a few seconds on idle cores. On busy ones they wait for each
# other in each of thousands of operations: eigenvalues of a matrix of 1,531 columns
# took 8.3 s with two threads on two cores beside two other programs, and .5 s with one.
# Last digits depend on the number of threads, and small problems always have one.
FACTORIZATION_WORTH_A_THREAD = 3e11

# Multiplications per thread of predictions, about half a second. Beside two endless
# loops, a table's predictions of 12,000 samples took .35 s of the processor with one
# thread and 1.2 s with two.
PREDICTION_WORTH_A_THREAD = 1e10

# --- operators ----------------------------------------------------------------

# Memory of one block of dense rows, of which a few exist at a time. It is large enough
# for efficient matrix products, and small compared to usual values of `max_memory`.
BLOCK_BYTES = 2**23

# Samples of a block of an operator that is not kept in memory, which is large enough to
# make the overhead of each block negligible.
SAMPLE_BLOCK = 2**13

# Leaf numbers that are kept for each member and fold of many samples: 64 MB, or 128 MB
# for trees of more than 256 leaves.
KEPT_LEAVES = 2**26

# Memory of a block of samples that is read from a file, in float64. Only samples of
# more than a thousand numbers come in smaller blocks than SAMPLE_BLOCK.
READ_BYTES = 2**26

# Blocks of a part of the samples that a task computes. It then takes about a second and
# returns one sum, a matrix of a few MB.
PART_BLOCKS = 8

# Tasks per worker that are sent at a time. Their results are in memory together.
WAVE = 4

# Times that tasks are sent again if a worker is lost. A worker that dies so often has
# too little memory.
PASS_ATTEMPTS = 3

# Memory of the outputs of all layers of a torch module on a block of samples. 60,000
# images of 28 x 28 pixels and 32 channels would take 12 GB.
LAYER_BYTES = 2**28

# Size of a block of counters that stays in the cache of one core. Kernels of 10,000
# samples take 3 s with 160 kB and 500 trees, 5 s with 640 kB.
CACHE_BYTES = 160_000

# Memory of the leaf values of those trees whose values are added at a time. For 3,000
# trees and 100 outputs, a fourth of the time of all at once; with CACHE_BYTES, one
# sample takes five times as long.
VALUE_BYTES = 2**20

# Largest count that a byte can hold.
MOST_COUNTS = 255

# --- losses -------------------------------------------------------------------

# A dual this close to its domain counts as inside: rounding may have moved it out.
DOMAIN_SLACK = 1e-12

# --- models -------------------------------------------------------------------

# A column is far from zero if its distance from zero is this many times its spread.
# Differences of its entries are then exact in floating point (Sterbenz).
FAR_FROM_ZERO = 2.0

# Number of samples that a network is tried on, and of samples spread over all of them
# that stand for them in checks.
FEW_ROWS, SPREAD_ROWS = 8, 64

# Outputs for a sample are equal up to rounding if they differ by no more than this,
# relative to the spread of the outputs and to their size.
SPREAD_RTOL, SIZE_RTOL = 1e-6, 1e-9

# Checks are repeated at parameters moved by this fraction of their size, because a zero
# head hides the layers before it.
NEARBY = 0.1

# Step of finite differences, relative to the size of the parameters, and tolerance on
# the derivative. The tolerance allows for rounding, not for detached parameters.
DIFFERENCE_STEP, DERIVATIVE_RTOL = 1e-6, 1e-2

# Derivatives this close to those of a linear head differ by rounding only.
HEAD_TOLERANCE = 1e-10

# --- training -----------------------------------------------------------------

# The weights of wider layers would not fit into memory.
MOST_UNITS = 2**31

# Entries of X that are shuffled at a time, which limits the memory of the copy.
SHUFFLED = 2**22

# A column is constant if its standard deviation is at most this many rounding units of
# its largest entry. Sums in a different order differ by a few units.
INPUT_ULPS = 8

# Columns with smaller entries count as constant, as standardizing them would make
# weights overflow.
SMALLEST_COLUMN = 1e-290

# A training that continues with other samples changes its standardization if means
# differ by more than this many standard deviations, or deviations grow by this factor.
# A smaller deviation changes nothing: conversions disturb Adam's second moments. Then
# no weight of the first layer becomes larger by more than the second factor, since
# units would saturate.
# Samples beyond the third factor do not change it and raise an error.
LARGEST_CHANGE = 2.0
LARGEST_STRETCH = 10.0
LARGEST_GROWTH = 1e100

# Samples times members of one forward pass over all data, which limits its memory.
FORWARD_ROWS = 2**14

# Weights already vanish at this penalty. Larger ones would only make squared gradients
# overflow in float32.
LARGEST_PENALTY = 1e8

# Maximum iterations of a polish, and its tolerance on the gradient.
POLISH_ITERATIONS = 1000
POLISH_GTOL = 1e-8

# Maximum number of parameters for Newton's method, which forms and factorizes the
# Hessian, and maximum number of its steps.
POLISH_DENSE_PARAMS, POLISH_NEWTON_STEPS = 600, 50

# Fraction of the epochs in which the learning rate is annealed to zero.
ANNEALED = 0.5

# Initial learning rate of networks with up to RATE_FEATURES inputs. Adam changes all
# weights by similar amounts, so the change of a unit grows with its number of inputs.
RATE, RATE_FEATURES = 1e-2, 64

# Adaptive training ends at this learning rate.
SMALLEST_RATE = 1e-6

# A loss has diverged if it exceeds that of the first epoch by this factor, even if it
# does not overflow yet.
EXPLOSION = 1e8

# A training has diverged if it ends above its start, and its excess over the floor is
# this many times that of the best constant. It is larger than one, as the parameters of
# the best held-out score may have a training loss slightly above that of a constant.
DIVERGED_EXCESS = 2.0

# --- geometry -----------------------------------------------------------------

# Largest change of an output, relative to its spread, or in rounding errors of its
# terms if these are larger. It is tested at these times on a path.
OUTPUT_TOLERANCE, MOVED_ULPS, PATH_TIMES = 1e-12, 64, (0.25, 0.5, 0.75, 1.0)

# A path that meets a kink is halved up to this many times, down to a thousandth of the
# weights' size; the columns of closer parameters hardly differ. Then another random
# direction is tried, up to this many in all.
N_HALVINGS, N_DIRECTIONS = 10, 3

# A module's Jacobian is formed up to this many entries. A block of its columns is
# decomposed up to this many entries times its shorter side.
JACOBIAN_ENTRIES, BLOCK_WORK = 2e7, 1e10

# A kink closer than this, relative to its layer's inputs, counts as being at the
# parameters, because rounding may have moved it.
KINK_TOLERANCE = 1e-8

# Inputs closer to a seam than this, relative to the largest input, may be on it.
SEAM_TOLERANCE = 1e-8

# Singular values below this, relative to the largest, count as zero. Columns of a
# Jacobian are scaled to norm one first, those of residual weights are not.
RANK_RTOL = 1e-10

# Distances of the nearby parameters, relative to their size. An analytic function has
# the same rank almost everywhere, and larger distances show it more clearly. Piecewise
# functions may have another rank on each piece.
NEARBY_STEPS, NEARBY_ANALYTIC = (1e-3, 1e-3, 1e-3), (1e-3, 1e-2, 1e-1)

# Limits up to which a Jacobian is formed and decomposed: entries (1.6 GB), and entries
# times the shorter side (about 15 seconds on one core).
RANK_ENTRIES, RANK_FLOPS = 2e8, 5e10

# --- bases --------------------------------------------------------------------

# A larger number of outputs is taken for a mistake.
MOST_OUTPUTS = 2**20

# Displacements are tried TRIALS times as often as requested. A column counts as new if
# its relative distance from the span of the others exceeds NEW_RTOL.
TRIALS, NEW_RTOL = 3, 1e-8

# --- convex -------------------------------------------------------------------

# Bounds cover coefficients this many times as long as the computed ones.
COEF_BUDGET = 1e6

# The basis is factorized, and dual points are repaired, up to this many flops (rows
# times columns times the smaller of both). Larger bases are only used in products.
FACTOR_FLOPS, REPAIR_FLOPS = 4e9, 3e7

# Newton may take this many flops, within a smallest and largest number of steps.
NEWTON_FLOPS, NEWTON_STEPS = 1e10, (15, 100)

# Coefficients along directions with relative singular values below these can be very
# long and gain next to nothing, and a bound for even longer ones is of little use. All
# cutoffs are tried, and the loss decides.
STEADY_RTOL = 1e-10
INFIMUM_RTOLS, NEWTON_RTOLS = (1e-12, STEADY_RTOL, 1e-8, 1e-6), (STEADY_RTOL,)

# Bounds are compared by their gain over the trivial bound. Those with FULL_FRACTION of
# the largest gain count as equal; the one with the largest budget is used. Budgets are
# COEF_BUDGET times any candidate's norm, or SMALLER_BUDGETS times the best one's.
FULL_FRACTION, SMALLER_BUDGETS = 1 - 5e-8, (1e4, 1e2, 1.0)

# Without a factorization, coefficients are less accurate. A smaller budget is then used
# if a larger one would lose more than a tenth of the largest gain.
ROUGH_FRACTION, ROUGH_BUDGETS = 0.9, (1e6, 1e5, 1e4, 1e3, 1e2, 1e1)

# Losses within this relative tolerance are equal; the shortest coefficients are used.
EQUAL_RTOL = 1e-12

# If a log loss is this close to the sum of the samples' infima, the labels count as
# separated. If all gradients are this far inside their domain, they are not separated.
SEPARATED_LOSS, INTERIOR_SLACK = 1e-10, 1e-8

# Steps are computed in float32 if the residual may be this fraction of the gradient and
# alpha is at least this fraction of the mean squared row norm, above the rounding 6e-8.
SINGLE_FORCING, SINGLE_ALPHA = 1e-3, 1e-7

# Conjugate gradients are preconditioned if alpha is below this fraction of the mean
# squared row norm; a larger alpha needs only a few products without.
WEAK_ALPHA = 1e-2

# The preconditioner is recomputed after a step that took more products than this.
MANY_PRODUCTS = 15

# Preconditioners of outputs sum over this many samples for each feature. With four
# times as many, the refit of 200 classes (10,000 samples, five networks of 50 units)
# takes as many products. All output layers share blocks up to JOINT_FLOPS, a second: 65
# products then suffice. One block for each layer took 102 to the same gradient.
GRAM_SAMPLES, LEAST_GRAM_SAMPLES, JOINT_FLOPS = 4, 1000, 1e10

# Dual coordinates this close to the edge of their box are pinned to it. All distances
# are tried, and the caller keeps the best certified value.
PINNING = (0.0, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 1e-2)

# Stop when the constraints are violated by no more than this.
REPAIR_RTOL = 1e-13

# Eigenvalues of the Gram matrix below this fraction of the largest are rounding.
EIGENVALUE_RTOL = 1e-14

# Largest rounding error of a mean of losses, in units in the last place.
MEAN_ULPS = 16

# A relative increase of a held-out loss by CLEAR_RISE is more than noise. One by RISE
# is more than a plateau, but may be noise.
CLEAR_RISE, RISE = 0.01, 0.001

# Always evaluate this many of the largest alphas. The model is nearly constant there,
# so an increase (e.g. due to class imbalance between folds) is not informative.
ALWAYS_EVALUATED = 7

# When alphas are compared, Newton first stops after a step that predicted a decrease by
# this fraction of the objective. The remaining error is of the order of its square.
COMPARISON_TOL = 0.1

# Alphas with a rough held-out loss within this fraction of the best are then solved to
# the user's tolerance. Rough losses are wrong by up to 1.4 % (MLPs on digits and on
# generated samples, random problems). To solve all alphas to a tolerance of 1e-4 takes
# two to six times as long as roughly.
CLOSE_LOSS_RTOL = 0.03

# Losses of candidates are equal if they differ by less than this fraction. Rounding or
# the tolerance of members would choose between them: for a LinearRegression on sparse
# inputs, losses of refits that are equal in theory differ by 1e-8.
TIE_RTOL = 1e-7

# Newton steps that stop at smaller decreases of the objective are not taken in float32.
SINGLE_DECREASE = 1e-4

# Overhead of a small tensor operation, in flops, and Hessian products per Newton step.
# Both are rough: they only decide between many small products and few large
# factorizations.
LAUNCH_FLOPS = 2.5e5
PRODUCTS = 30
LSMR_ITERATIONS = 20_000

# LSMR stops at this fraction of the gradient norm that the tolerance on the certified
# gap, ||gradient||^2 / (2 alpha), allows for an objective of one.
LSMR_FRACTION = 0.3

# Default memory limit in bytes.
MAX_MEMORY = 2.0**30

# Largest rounding error of a gap, in units in the last place.
GAP_ULPS = 64

# If alpha = 0, solutions with and without directions below these fractions of the
# largest singular value are compared: coefficients along them may be so long that
# rounding spoils the loss.
SPECTRAL_RTOLS = (1e-12, 1e-10, 1e-8)

# Coefficients are accurate if converting them to the problem's units changes the loss
# by less than this fraction.
CONVERSION_RTOL = 1e-9

# A centered column counts as zero up to this many units in the last place of the
# column: entries of a computed constant differ by one or two.
CONSTANT_ULPS = 8

# Matrices as large as the smaller side of a basis that the influence of samples takes.
INFLUENCE_COPIES = 4

# Rounding error of a network's hidden outputs, in units in the last place. (Measured on
# layers of nearly linear units with offsets of 1e5 to 1e9. If it is ignored, bounds for
# coefficients of 1e6 are 5e-9 and 6e-7 too large.)
OUTPUT_ULPS = 2.0

# Rounding error of the product of a column of norm one with a vector, in units in the
# last place of the vector's norm. It covers rounding of the sum and of the basis.
PRODUCT_ULPS = 1.5

# Curvatures of columns of norm one are at least this fraction of the largest one: far
# below the curvatures that matter, and far above rounding.
COLUMN_CURVATURE = 1e-13

# Singular values of exact features below this many units in the last place, for each
# row or column, are rounding.
RANK_ULPS = 1.0

# Curvatures of samples are at least this fraction of the largest one, so that working
# responses stay finite.
LEAST_CURVATURE = 1e-9

# Conjugate gradients for the steps of kernel problems with coupled outputs stop at this
# fraction of the error. They take three to seven iterations, few of them more than 20.
KERNEL_FORCING, KERNEL_CG_STEPS = 0.1, 40

# --- estimator ----------------------------------------------------------------

# If the smaller side of the basis has at most this size, a Newton step is a dense
# factorization, and its leverages give leave-one-out at no extra cost.
DENSE_SIZE = 1500

# This many distinct held-out samples suffice to compare candidates. More folds, each
# with its own path, would take time and memory without changing the choice. The squared
# loss has a closed form and uses all folds, as their errors also estimate the noise.
# The mean row norm of a basis, which only tells large alphas from small ones, is that
# of as many samples.
ENOUGH_ROWS = 1000

# Alpha and the noise are chosen on a random part of larger data. The relative standard
# error of a mean squared error on this many samples is about 1%, and candidates are
# compared on the same samples, so their differences are more accurate still.
CHOICE_ROWS = 20_000

# A trained model is kept unless its refit has a smaller loss on the validation samples
# by this many standard errors, because the best of many candidates is better by chance.
# On 28 splits of bundled and generated data, the refit of boosted trees has 1.00 of
# their loss instead of 1.03 (at most 1.11 instead of 2.15); that of networks .90
# instead of .88.
CLEAR_GAIN = 2.0

# Number of cross-fitting folds if the user gives none.
AUTO_FOLDS = 5

# No machine has more cores.
MOST_JOBS = 2**20

# Values are constant if their spread or largest deviation relative to their size is at
# most this: rounding errors of their mean are smaller.
CONSTANT_RTOL = 1e-12

# The squares of larger targets and features, summed over samples, would overflow.
LARGEST_VALUE = 1e150

# Least scale of standardized targets, relative to their mean absolute deviation: for
# losses that are linear almost everywhere, standardized targets would be too large.
LEAST_SCALE = 0.1

# Initial log probability of a class without any weight.
ABSENT = -10.0

# --- refit --------------------------------------------------------------------

# `fit` factorizes the whole Jacobian for its rank, and repairs a dual point for the
# infimum over its span, only if that takes a fraction of a second.
FIT_RANK_FLOPS = 1e9
FIT_REPAIR_FLOPS = 1e7

# Log probability of classes without training samples: about log(eps) of float64, so
# the other probabilities still sum to one.
LOG_ABSENT = -36.0

# Squared errors are clipped at this multiple of their mean: the logarithms of smaller
# ones would dominate the fit.
SMALLEST_SQUARE = 1e-6

# The inverse of a target transformation is flat if an interval around a prediction is
# transformed to one of at most this many units in the last place. The interval is then
# doubled up to this many times, which leads back from any range of practical use.
FLAT_ULPS, MOST_DOUBLINGS = 16, 10

# Eigenvalues below this multiple of the penalty's are dropped: the penalty alone then
# determines the variance in their directions, with this relative error.
NOISE_NEGLIGIBLE = 1e-4

# The rich noise model is tried only with ten samples per feature, the rule of thumb of
# regression: with fewer, cross-validation selects it by chance. Beyond a few hundred
# features its Newton steps would take as long as the refit. Its features and those of
# all folds take about NOISE_COPIES times the memory of the features alone.
NOISE_ROWS_PER_COLUMN = 10
NOISE_COLUMNS = 300
NOISE_COPIES = 8

# Search for weights of kernels, alpha and the center. Weights of groups after the first
# start at FIRST_WEIGHT. Alpha decreases from STRONGEST_ALPHA by COARSE_STEP; neighbors
# of the best differ by FINE_STEP. Solutions are only compared, so a few rough Newton
# steps suffice. Alpha decreases until the loss is CLEARLY_WORSE than the best, or two
# steps past the best: without the first limit, and with neighbors of the best for both
# centers, the RMSE of 31 generated and small sets is the same. The log loss of 21 is
# .990 +- .011 with them, in .94 of the time of the whole fit.
FIRST_WEIGHT, STRONGEST_ALPHA, LEAST_ALPHA = 0.3, 1.0, 1e-9
COARSE_STEP, FINE_STEP = 10.0, 10.0**0.5
MIXTURE_SWEEPS, MIXTURE_TOL, MIXTURE_STEPS = 3, 1e-3, 20
CLEARLY_WORSE = 0.02

# Flops of trying one mixture, which limit the samples that mixtures are chosen on:
# about 1,500 for the squared loss and 900 for two or more classes. The best mixtures
# and the stacked average are stacked again: on 19 sets for choosing, the log loss is 2%
# lower than that of the mean of the best mixtures. Five mixtures are no better than
# three (RMSE over CatBoost's .840 and .841, log loss .913 and .910).
CHOICE_FLOPS, STACKED_MIXTURES = 3e9, 3
# Newton steps for the weights of a stack; four to eight suffice.
STACKING_STEPS = 50
# Samples with labels by chance that classifiers are stacked with, as their weights
# would else trust a few labels that happen to be right. With 8 and 9 samples the log
# loss is .93 and .80 (1.56 and 1.48 without, .66 and .69 that of the frequencies).
CHANCE_LABELS = 0.5

# Triangles are mirrored in blocks of this many rows, which fit into the cache.
MIRROR_ROWS = 512

# Limits of kernels: entries of one for all outputs in the choice (a gigabyte for five),
# and flops of one least squares solution on all samples: 5,000 samples, beyond which
# some span the functions (1,400 of 10,000). Losses other than the squared one take
# about NEWTON_SOLVES of them. Mixtures are solved as far as FINAL_FLOPS allow: ten
# seconds.
KERNEL_ENTRIES, SOLVE_FLOPS, NEWTON_SOLVES, FINAL_FLOPS = 2.5e7, 4.2e10, 5, 3e11
# Of more samples, this many landmarks span the functions of the squared loss; rows of
# their kernels are not kept. Other losses see fewer samples if memory is short.
LANDMARKS = 500
# The same for all final problems together, if each fold has one of its own.
SOLVE_FLOPS_OF_MANY = 1.4e10
# Tolerance of the final solutions, and of the landmarks' kernels.
SOLUTION_TOL, LANDMARK_JITTER = 1e-7, 1e-10

# --- added_neuron -------------------------------------------------------------

# early_stopping="auto" requires at least this many distinct held-out samples.
AUTO_HELD_OUT = 10

# The default batch size is an eighth of the samples, within these limits. On small data
# larger batches leave too few updates: compared to scikit-learn's 200, held-out RMSE
# decreases by 10 % (geometric mean, 20 regression sets of up to 700 samples), and log
# loss by 1 % (19 sets of up to 1,500).
BATCHES, SMALLEST_BATCH, LARGEST_BATCH = 8, 32, 200

# With more parameters than this, an iteration of L-BFGS takes several times as long as
# an epoch (100 samples, 1,000 features: 36 s of polish after 2 s of search). The polish
# is then limited to a quarter of the search's epochs, and is skipped at the floor.
POLISHED_PARAMS = 20_000

# Iterations of the neurons' descent, and number of the last ones that decide whether
# the neurons diverge.
NEURON_ITERATIONS = 30
WINDOW = 10

# Samples of one forward pass in `predict`, which limits its memory.
PASS_ROWS = 2**13

# Number of updates in a segment; progress is checked after each segment.
SEGMENT = 100

# A segment stagnates if it decreases the excess over the floor by less than the first
# fraction, or by less than the second one while the learning rate is annealed, as
# progress is then slow anyway. At a large learning rate the loss fluctuates, so a
# member is only stuck after several stagnating segments.
PROGRESS, ANNEALED_PROGRESS = 1e-4, 1e-6
STAGNATING_SEGMENTS = 2

# The search returns to the best network after the first fraction of the epochs, then
# anneals the learning rate. The second fraction is left for the polish on all samples,
# and each of its evaluations counts as an epoch.
RETURN_FRACTION, POLISH_FRACTION = 0.4, 0.2

# Every third move of a member is a restart.
RESTART_EVERY = 3

# Fractions of samples on which a transplanted unit is active; the best one is kept.
ACTIVE = (0.2, 0.5, 0.8)

# Smallest penalty of the refitted output layer: without one, the coefficients of
# identical units could grow without bound.
HEAD_ALPHA = 1e-8

# --- resnet -------------------------------------------------------------------

# Relative singular values below this are rounding errors.
FEATURE_RANK_RTOL = 1e-13

# Accept solutions with a relative duality gap below this even if the solver did not
# report convergence.
GAP_RTOL = 1e-6

# A loss is worse than that of the basis if it exceeds it by more than this fraction of
# the loss and of the targets' variance; smaller differences are rounding errors.
WORSE_RTOL = 1e-9

# Relative standard deviations below this are rounding errors of constants.
LOSS_ROUNDING = 1e-12

# solver="auto" uses full batches for at most this many samples.
FULL_BATCH_ROWS = 10_000

# If the best held-out loss of the basis alone is below this fraction of the loss at the
# largest alpha, the units have nothing to gain. Skipping their selection makes fits on
# separable classes, which have the most expensive solutions, five times faster.
SOLVED_FRACTION = 1e-3

# Tolerance and limit of the convex solutions. The certified comparison with the minimum
# on the basis alone is then accurate to 1e-9.
RESNET_TOL, RESNET_MAX_ITER = 1e-10, 200

# Variable projection is used up to this number of samples times squared unknowns and,
# with Newton's method, up to this number of unknowns. Beyond, joint training is faster:
# for 1,300 images of ten digits both take 3 s, but for 20 classes of 5 samples 0.2 s
# instead of 3.2. Below, variable projection reaches smaller losses in fewer steps: on
# two moons the held-out log loss after 100 steps is .25 instead of .27.
PROJECTION_FLOPS, NEWTON_UNKNOWNS = 5e8, 250

# L-BFGS stops after this many iterations without progress.
PATIENCE = 5

# The held-out loss is evaluated after these iterations, and a fold stops after this
# many evaluations without a new best. In joint training the units learn less in each
# iteration, and an evaluation is as expensive as many of them, so half as many suffice.
CHECKPOINTS = (1, 3, 6, 12, 25, 50, 100, 200, 400, 800)
EVALUATIONS, JOINT_EVALUATIONS = 3, 2

# The gain must exceed this many standard errors. On 60 samples of pure noise the units
# are kept for 8 of 20 seeds at zero, and for 1 at one standard error. On 300 samples of
# a sine plus a line the mean R2 is .981 at both.
STANDARD_ERRORS = 1.0

# Features with smaller entries count as constant: their squares would vanish, and
# standardizing them would make weights overflow.
SMALLEST_FEATURE = 1e-150

# A penalty suppresses rounding errors of singular values if its square root exceeds
# this fraction of the largest.
WEAK_PENALTY = 1e-10

# A rough solution stops after a Newton step that predicts a decrease by this fraction
# of the objective. The remaining error is of the order of its square.
ROUGH_TOL = 0.01

# Candidate multiples of the alpha of the basis alone. Units fitted to the targets
# overfit more than a fixed basis, so they need a larger alpha.
ALPHA_FACTORS = (16.0, 4.0, 1.0)

# Limits on W and V; beyond them a warning says that W is nearly singular.
LEAST_SIGMA, LARGEST_NORM = 1e-6, 1e6

# Size of W - R1, relative to R1, if the range of R1 does not contain that of R2.
MISSING_RANGE = 1e-3

# --- certificate --------------------------------------------------------------

# The Hessian is formed up to this many parameters. Beyond, Lanczos uses its products.
HESSIAN_PARAMS = 300

# Limits of Lanczos: multiplications in all, smallest and largest number of steps, and
# numbers stored in its vectors (400 MB).
LANCZOS_FLOPS, LANCZOS_STEPS, LANCZOS_NUMBERS = 6e9, (20, 150), 5e7

# Steps of the descent from a point that is not a local minimum. The first one has some
# of these lengths: units of targets and of hidden units may differ by their ratios.
ESCAPE_STEPS, FIRST_LENGTHS = 200, tuple(10.0**-k for k in range(0, 61, 2))

# Candidate step lengths along the gradient, in multiples of a step that changes the
# outputs by one.
STEEP_LENGTHS = tuple(2.0**k for k in range(-60, 61))

# Lengths of a step along a direction of negative curvature, by the decrease that the
# curvature predicts, relative to the objective. The short ones must confirm it: the
# longest of them is a thousandth of the distance on which the objective changes, and
# the shortest one's decrease is a thousand times as large as rounding errors. At three
# lengths in a row, the second difference must agree up to a factor of two.
LONG_DECREASES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
SHORT_DECREASES = (1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12)
CONFIRMING_LENGTHS, CURVATURE_FACTOR = 3, 2.0

# Relative jump of a loss' second derivative that is not a change on a short distance.
JUMP_RTOL = 1e-3

# Default norm budget of the tilted bound, in multiples of the norm of the parameters.
TILTED_BUDGET = 10.0

# Number of displacements of the parameters, and the largest cost (entries of a Jacobian
# times its shorter side) at which ranks nearby are determined.
N_DISPLACEMENTS, NEARBY_RANK_FLOPS = 8, 1e9

# Relative rounding error of a gradient, with respect to the sum of its terms' sizes.
GRADIENT_ROUNDING = 1e-14

# Samples on which to test whether torch has a Hessian.
PROBED_ROWS = 4

# Columns of the Hessian computed in one batch.
HESSIAN_COLUMNS = 32

# Change of the outputs within which Hessians are bounded from below, in units of the
# loss. A step that a minimum is known by is shorter.
CONVEX_RADIUS = 1e-3

# Sums of columns up to this size, times factors up to this size, are exact.
LARGEST_INTEGER = 2**16

# A convex minimum is known if it is proven up to this part of the tolerance.
CONVEX_FRACTION = 1e-3

# Newton's method for a convex objective may take NEWTON_FLOPS, within these numbers of
# steps.
QUADRATIC_STEPS = (2, 50)

# Its steps only use directions with singular values of the Hessian's root above this,
# relative to the largest: others are rounding.
HESSIAN_ROOT_RTOL = 1e-12

# Limits of L-BFGS on a basis that is too large to factorize: steps and flops.
DESCENT_STEPS, DESCENT_FLOPS = 200, 6e9

# The penalty's gradient leaves the row space of J if a part of this relative size lies
# outside. Directions with singular values below TILTED_RTOL times the largest are
# ignored.
OUTSIDE_RTOL, TILTED_RTOL = 1e-8, 1e-10

# --- compare ------------------------------------------------------------------

# Limits of the convex solves of a comparison.
COMPARE_TOL, COMPARE_MAX_ITER = 1e-6, 100

# --- survey -------------------------------------------------------------------

# Two networks are the same minimum if their predictions differ by less than this,
# relative to the targets' spread, and their objectives relative to the loss scale.
SAME_MINIMUM = 1e-3

# Targets are the same if their spread relative to their size is at most this.
SAME_TARGETS_RTOL = 1e-14

# Multiplications allowed for the decompositions behind bounds and verdicts, in all.
# The networks with the smallest objectives are examined first.
EXAMINATION_FLOPS = 1e9

# A certificate costs about as much as ten decompositions of its gradient basis.
CERTIFICATE_COST = 10.0

# Networks trained by one tensor program. With fewer, the overhead of each operation
# dominates; with more, their tensors do not fit into the cache.
POPULATION_GROUP = 50

# Networks polished in one task.
POLISH_CHUNK = 5

# Multiplications allowed for polishing if polish_iter="auto". Fewer than LEAST_POLISH
# iterations would not reach critical points, and more than MOST_POLISH are not needed.
POLISH_WORK, LEAST_POLISH, MOST_POLISH = 1e9, 50, 1000

# Up to this many parameters, Hessians are cheap enough for final Newton steps.
NEWTON_PARAMS = 150

# Epochs relative to scikit-learn's: with an annealed, ten times larger learning rate,
# Adam reaches the loss of their networks in this fraction of epochs.
EPOCH_RATIO = 0.2

# Number of minima in the printed table.
PRINTED_MINIMA = 8

# Gradients are polished to this fraction of the tolerance, because the certificate of a
# penalized objective multiplies them by its norm budget, which can be several hundred.
SURVEY_POLISH = 1e-3

# --- display ------------------------------------------------------------------

# Ratio of the largest and smallest loss from which the axis is logarithmic.
CERTIFICATE_LOG_SPAN = 100.0

# Losses below this multiple of the tolerance are rounding errors.
AXIS_ROUNDING = 1e-3

# Ratio of the largest and smallest value from which an axis is logarithmic.
TRAINING_LOG_SPAN = 10.0

# --- tables ---------------------------------------------------------------------

# Inputs of networks approach this many standard deviations. On 20 bundled, generated
# and mixed tables, the RMSE is .839, .798 and .792 times CatBoost's (geometric mean)
# for 3, 6 and 10: stronger squashing bends smooth and linear functions of the inputs.
SQUASH = 10.0

# Binary exponent of the largest unit of a column. It and its inverse are within the
# limits of double precision, which are 1023 and -1022, and the largest numbers become
# at most 2^24 in it. Numbers below its inverse stay below one, and are exact.
LARGEST_UNIT = 1000

# Columns with at most this many categories become indicators, and those with fewer
# samples than RARE_SAMPLES share one.
MOST_ONE_HOT, RARE_SAMPLES = 30, 3

# scikit-learn's histograms have 255 bins, one of them for missing values.
MOST_TREE_CODES = 254

# Built-in models of the estimators for tables, chosen on generated data and small mixed
# tables. With the forest the error is 3 % smaller than without (14 sets).
NETWORK_UNITS = (64, 64)
FOREST_LEAF = 3

# A table of more samples has fewer folds, which are held out in halves, and other
# members, whose derivatives are computed in blocks.
MANY_SAMPLES = CHOICE_ROWS

# Of more than MANY_SAMPLES there are fewer folds, in inverse proportion, but at least
# these. With two, RMSE increases by up to 14 % (20,000 samples of a robot arm), and a
# third to a half of the training is saved.
LEAST_FOLDS = 3

# Boosted trees and the forest of at most FEW_SAMPLES samples, at most MANY_SAMPLES, and
# more: iterations, leaves, the least number of samples in a leaf, trees of the forest.
#
# Few: 15 leaves and 300 iterations are no better (.899 of CatBoost's error, .895). With
# leaves of 5 the RMSE of 24 generated and small mixed tables of at most 2,000 samples
# is .985 +- .010 of that with 20 (2 or 3 splits; leaves of 2 samples .992 +- .005), and
# the log loss of 27 such tables .990 +- .009 (1 split). 100 trees in the forest are no
# better than 50 (.840 of CatBoost's RMSE, .838; 20 sets).
#
# Not many, 16 generated sets with targets and 15 with classes, 12 of them generated, of
# 7,000 samples each: .989 +- .007 of the RMSE and .992 +- .005 of the log loss of few;
# with forests of 50 trees, which take twice the time for predictions, .986 and .991;
# with leaves of 5 in the forest .989 and 1.000; with 600 iterations .984 of the RMSE,
# and fits take 1.36 instead of 1.04 times as long; with 31 leaves 1.008.
#
# Many (a smooth function with noise, one of boxes, a robot arm, nearest prototypes): on
# 50,000 samples of boxes, the RMSE is .34 instead of .88 with few (CatBoost .28). They
# stop early, as without it the log loss of noisy classes is 7 % larger than that of few
# small trees. With 10 trees in the forest, the log loss of five sets of 24,000 samples
# is .999 +- .001 of that with 25, and with 5 the RMSE of eight functions is 1.001 +-
# .001; fits take .97 and .90 of the time. Of not many samples, one function of twelve
# has 1.24 times the RMSE with 10 trees.
FEW_SAMPLES = 3000
TREE_ITERATIONS = (150, 300, 600)
TREE_LEAVES = (8, 16, 31)
TREE_LEAF = (5, 20, 20)
FOREST_TREES = (50, 25, 10)

# Boosted trees of many classes have one tree for each class and iteration, and no more
# than MOST_TREES in all. 20 classes (digits turned two ways, 60 samples of each) keep
# their 150 iterations, because 75 and 10 are worse: log loss .088, .100, .100. 40
# classes (digits turned four ways, 24 of each) are as good with 15, 37 and 150 (.364,
# .366, .366), and so are 100 generated classes of 16 with 15 and 30 (.445, .446). One
# seed and one split of each.
MOST_TREES = 3000

# Trees of a forest see this many samples of larger data, drawn for each tree: leaves
# would else take gigabytes.
FOREST_SAMPLES = 100_000

# Networks of more than MANY_SAMPLES samples see NETWORK_SAMPLES, counted once for each
# epoch, but at least LEAST_EPOCHS.
NETWORK_SAMPLES, LEAST_EPOCHS, BATCH_OF_MANY = 3e6, 20, 256

# Trees with at most UPPER_NODES + LOWER_NODES inner nodes are evaluated by lookup in
# tables for the bits of the upper and of the lower nodes, which are one byte.
UPPER_NODES, LOWER_NODES = 7, 8

# Of more than FEW_SAMPLES, this part is set aside, and at most MOST_ASIDE samples, to
# measure errors of the refit. The coverage of 90 % intervals on generated functions is
# wrong by .016 with 218 samples of 3,500 (root of the mean square, 12 functions) and
# .009 with 500 of 8,000 (9 functions); from held-out errors of the folds by .050 and
# .055, and if these are multiplied by the ratio of both errors, by .012 and .016. With
# halves of folds (22,000 samples, 512 aside, 6 functions) it is .016, .053 and .028.
# These are one sample in sixteen; one in twenty leaves more samples for training.
ASIDE_FRACTION, MOST_ASIDE = 0.05, 1024

# Binary exponent beyond which the largest weight is scaled. No count of samples is as
# large, and sums of squares stay far from the limits of double precision.
LARGEST_WEIGHT = 64

# Means of targets that are this many times as large as their standard deviation are
# subtracted: squares then differ in the last ten digits.
FAR_TARGETS = 1e3

# Smallest absolute error, relative to the mean, that the scale is fitted to, because an
# error of zero would have an infinite log.
SMALLEST_SIZE = 1e-3

# --- predictive distributions -------------------------------------------------

# Errors that a density keeps; more are replaced by as many quantiles. A thousand give
# quantiles from 0.1 % on, and leave-one-out likelihoods in a tenth of a second.
SHAPE_CENTERS = 1000

# Candidates of the density: bandwidths, relative to Scott's rule; weights of the
# Student t density; its degrees of freedom, of finite variance.
SHAPE_BANDWIDTHS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
SHAPE_FRACTIONS = (0.02, 0.1, 0.25, 0.5, 1.0)
SHAPE_FREEDOM = (3.0, 5.0, 10.0, 30.0)

# The score integrates between the quantiles of this probability, on this many points
# besides the errors.
SHAPE_TAIL, CRPS_POINTS = 1e-7, 2001

# Distances from the centers that are in memory at a time.
SHAPE_DISTANCES = 2**22

# Squares of standardized errors beyond this may overflow.
FAR_OUT = 1e150

# Halvings of intervals of numbers: more would not change a float.
BISECTIONS = 64

# Scores of counts sum between the quantiles of this tail probability, in at most this
# many steps.
COUNT_TAIL, COUNT_POINTS = 1e-9, 2000

# Targets within this relative distance of a whole number are counts, but not above a
# hundredth: products of rates and exposures are not exact, and may be in float32.
COUNT_RTOL, LARGEST_FRACTION = 1e-6, 1e-2

# Variance of counts beyond their mean, relative to the square of the mean. The least is
# hardly different from none.
LEAST_DISPERSION, MOST_DISPERSION = 1e-5, 100.0

# Coverages of the intervals that are drawn, and points of the reliability curve.
FAN_COVERAGES, RELIABILITY_POINTS = (0.5, 0.9), 101

# Averaging the models of folds removes at most this part of the squared error: five
# independent models with nothing but variance would remove four fifths.
MOST_GAIN = 0.8
