// Gradient flow of many 2-2-2 networks by Tsit5 with an adaptive step size, as fast as we can make one CPU go.
//
//     g++ -O3 -march=native -fopenmp flow.cpp -o flow
//     ./flow CELLS ANSWERS REPEATS AT_ONCE
//
// CELLS holds doubles: how many cells, t1, rtol, atol, first step, most steps, the target by rows; then for each cell
// the weights w1 and w2, by rows, and the scale of its target. ANSWERS gets 9 doubles a cell: the weights where it
// ended, and the number of steps, negative if they did not suffice. Printed are the lanes of a pack, the number of
// threads, and the seconds of each repeat, from cells in memory to answers in memory.
//
// As many cells as a vector register has room for are a pack: they step together, each with a step size of its own,
// until the last of them has ended or, if AT_ONCE is 1, one that ended makes room for the next cell at once. Tableau,
// error norm and controller are those of diffrax, as layerflow uses them.

#include <omp.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 8;
#elif defined(__AVX__)
constexpr int LANES = 4;
#else
constexpr int LANES = 2;
#endif

typedef double Real __attribute__((vector_size(8 * LANES)));
typedef long long Whole __attribute__((vector_size(8 * LANES)));  // also masks: -1 is true

constexpr int GIVEN = 9, STATE = 8, STAGES = 7, HEADER = 10;

constexpr double A[STAGES - 1][STAGES - 1] = {
    {161.0 / 1000},
    {-0.8480655492356988544426874250230774675e-2, 0.3354806554923569885444268742502307746751},
    {2.897153057105493432130432594192938764924, -6.359448489975074843148159912383825625952,
     4.362295432869581411017727318190886861027},
    {5.325864828439256604428877920840511317836, -11.74888356406282787774717033978577296188,
     7.495539342889836208304604784564358155658, -0.9249506636175524925650207933207191611349e-1},
    {5.861455442946420028659251486982647890394, -12.92096931784710929170611868178335939541,
     8.159367898576158643180400794539253485181, -0.7158497328140099722453054252582973869127e-1,
     -0.2826905039406838290900305721271224146717e-1},
    {0.9646076681806522951816731316512876333711e-1, 1.0 / 100, 0.4798896504144995747752495322905965199130,
     1.379008574103741893192274821856872770756, -3.290069515436080679901047585711363850115,
     2.324710524099773982415355918398765796109},
};
constexpr double ERROR[STAGES] = {
    A[5][0] - 0.9468075576583945807478876255758922856117e-1,
    A[5][1] - 0.9183565540343253096776363936645313759813e-2,
    A[5][2] - 0.4877705284247615707855642599631228241516,
    A[5][3] - 1.234297566930478985655109673884237654035,
    A[5][4] + 2.707712349983525454881109975059321670689,
    A[5][5] - 1.866628418170587035753719399566211498666,
    -1.0 / 66,
};

struct Setting {
    double t1, rtol, atol, first_step, most_steps, target[4];
};

static inline Real spread(double x) { return x - Real{}; }
static inline Real least(Real a, Real b) { return a < b ? a : b; }
static inline Real most(Real a, Real b) { return a > b ? a : b; }
static inline Real size_of(Real a) { return most(a, -a); }

// Minus the gradient of |w2 w1 - target|^2 / 2. The weights are w1, then w2, by rows.
static inline void velocity(const Real *w, const Real *target, Real *v) {
    const Real *w1 = w, *w2 = w + 4;
    Real miss[4];
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) miss[2 * i + j] = target[2 * i + j] - w2[2 * i] * w1[j] - w2[2 * i + 1] * w1[2 + j];
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            v[2 * i + j] = w2[i] * miss[j] + w2[2 + i] * miss[2 + j];
            v[4 + 2 * i + j] = miss[2 * i] * w1[2 * j] + miss[2 * i + 1] * w1[2 * j + 1];
        }
}

// x^(-1/10) for x from 1e-12 to 1e8, to 13 digits: a guess from the bits of x, and four steps by Newton.
static inline Real tenth_root_of_inverse(Real x) {
    const Whole bits = (Whole)x >> 32;
    Real y = (Real)((0x4653F784LL - ((bits * 0x1999999ALL) >> 32)) << 32);
    for (int i = 0; i < 4; i++) {
        const Real y2 = y * y, y4 = y2 * y2, y5 = y4 * y;
        y = y * (1.1 - (0.1 * x) * (y5 * y5));
    }
    return y;
}

// The sum of the squares of error / (atol + rtol |weight|), of both ends the larger: one division in place of eight.
static inline Real squared(const Real *error, const Real *before, const Real *after, const Setting &s) {
    Real above[STATE], below[STATE];
    for (int i = 0; i < STATE; i++) {
        const Real scale = 1.0 + (s.rtol / s.atol) * most(size_of(before[i]), size_of(after[i]));
        above[i] = error[i] * error[i] * (1 / (s.atol * s.atol));
        below[i] = scale * scale;
    }
    for (int half = STATE / 2; half; half /= 2)
        for (int i = 0; i < half; i++) {
            above[i] = above[i] * below[i + half] + above[i + half] * below[i];
            below[i] *= below[i + half];
        }
    return above[0] / below[0];
}

// One attempted step over dt: the weights behind it, the velocity there, and the sum of its squared scaled errors.
static inline Real step(const Real *w, const Real *v, const Real *target, Real dt, const Setting &s, Real *after,
                        Real *ahead) {
    Real k[STAGES][STATE], error[STATE];
    for (int i = 0; i < STATE; i++) k[0][i] = v[i];
#pragma GCC unroll 7
    for (int stage = 1; stage < STAGES; stage++) {
        for (int i = 0; i < STATE; i++) {
            Real sum = A[stage - 1][0] * k[0][i];
#pragma GCC unroll 7
            for (int j = 1; j < stage; j++) sum += A[stage - 1][j] * k[j][i];
            after[i] = w[i] + dt * sum;
        }
        velocity(after, target, k[stage]);
    }
    for (int i = 0; i < STATE; i++) {
        Real sum = ERROR[0] * k[0][i];
#pragma GCC unroll 7
        for (int j = 1; j < STAGES; j++) sum += ERROR[j] * k[j][i];
        error[i] = dt * sum;
        ahead[i] = k[STAGES - 1][i];
    }
    return squared(error, w, after, s);
}

static inline bool any(Whole mask) {
    long long found = 0;
    for (int lane = 0; lane < LANES; lane++) found |= mask[lane];
    return found;
}

// Cells under way, a lane each, and which they are: -1 if none.
struct Pack {
    Real w[STATE], scale, t, t_next, steps;
    Whole running;
    long cell[LANES];
};

// All cells, of which each thread takes the next.
struct Cells {
    const double *given;
    double *answers;
    long count;
    std::atomic<long> next;
};

// Lanes that ended write down where, and take the next cells. False if none is left.
static bool refill(Pack &pack, Cells &cells, const Setting &s) {
    bool some = false;
    for (int lane = 0; lane < LANES; lane++) {
        if (!pack.running[lane]) {
            if (pack.cell[lane] >= 0) {
                double *answer = cells.answers + GIVEN * pack.cell[lane];
                for (int i = 0; i < STATE; i++) answer[i] = pack.w[i][lane];
                answer[STATE] = pack.t[lane] < s.t1 ? -pack.steps[lane] : pack.steps[lane];
            }
            const long next = cells.next < cells.count ? cells.next++ : cells.count;
            pack.cell[lane] = next < cells.count ? next : -1;
            if (next >= cells.count) continue;
            const double *cell = cells.given + GIVEN * next;
            for (int i = 0; i < STATE; i++) pack.w[i][lane] = cell[i];
            pack.scale[lane] = cell[STATE];
            pack.t[lane] = pack.steps[lane] = 0;
            pack.t_next[lane] = s.first_step < s.t1 ? s.first_step : s.t1;
            pack.running[lane] = -1;
        }
        some = true;
    }
    return some;
}

// Steps, each lane of its own size, until one has ended, if AT_ONCE, or else all; a lane that ended stays where it is.
template <bool AT_ONCE>
static void travel(Pack &pack, const Setting &s) {
    const double t1_floor = s.t1 * (1 - 100 * __DBL_EPSILON__);  // a step that ends beyond ends at t1
    const Real t1 = spread(s.t1);
    Real w[STATE], v[STATE], target[4], t = pack.t, t_next = pack.t_next, steps = pack.steps;
    Whole running = pack.running;
    for (int i = 0; i < STATE; i++) w[i] = pack.w[i];
    for (int i = 0; i < 4; i++) target[i] = pack.scale * s.target[i];
    velocity(w, target, v);
    do {
        Real after[STATE], ahead[STATE];
        const Real dt = t_next - t;
        const Real square = step(w, v, target, dt, s, after, ahead) * (1.0 / STATE);
        const Whole keep = square < 1.0, moves = keep & running;  // NaN is no step to keep
        const Real factor = 0.9 * tenth_root_of_inverse(most(least(square, spread(1e8)), spread(1e-12)));
        const Real up = least(most(factor, spread(1.0)), spread(10.0));
        const Real down = least(most(factor, spread(0.2)), spread(0.9));
        const Real reached = least(keep ? t_next : t, t1);
        const Real wanted = (keep ? t_next : t) + dt * (keep ? up : down);
        const Real clipped = keep ? t1 : reached + 0.5 * (t1 - reached);
        for (int i = 0; i < STATE; i++) {
            w[i] = moves ? after[i] : w[i];
            v[i] = moves ? ahead[i] : v[i];
        }
        steps = running ? steps + 1.0 : steps;
        t = running ? reached : t;
        t_next = running ? (wanted > t1_floor ? clipped : wanted) : t_next;
        running &= (t < t1) & (steps < s.most_steps);
    } while (AT_ONCE ? !any(running ^ pack.running) : any(running));
    for (int i = 0; i < STATE; i++) pack.w[i] = w[i];
    pack.t = t, pack.t_next = t_next, pack.steps = steps, pack.running = running;
}

// What one thread does: pack after pack, refilled as soon as one lane has ended, or when all have.
template <bool AT_ONCE>
static void solve(Cells &cells, const Setting &s) {
    Pack pack = {};
    for (long &cell : pack.cell) cell = -1;
    while (refill(pack, cells, s)) travel<AT_ONCE>(pack, s);
}

static std::vector<double> read(const char *path) {
    std::vector<double> numbers;
    FILE *file = std::fopen(path, "rb");
    if (!file) std::perror(path), std::exit(1);
    std::fseek(file, 0, SEEK_END);
    numbers.resize(std::ftell(file) / sizeof(double));
    std::rewind(file);
    if (std::fread(numbers.data(), sizeof(double), numbers.size(), file) != numbers.size()) std::exit(1);
    std::fclose(file);
    return numbers;
}

int main(int, char **arguments) {
    const std::vector<double> given = read(arguments[1]);
    const Setting s = {given[1], given[2], given[3], given[4], given[5], {given[6], given[7], given[8], given[9]}};
    std::vector<double> answers(GIVEN * long(given[0]));
    Cells cells = {given.data() + HEADER, answers.data(), long(given[0]), {0}};
    const bool at_once = std::atoi(arguments[4]);
    std::printf("%d %d\n", LANES, omp_get_max_threads());
    for (int repeat = std::atoi(arguments[3]); repeat > 0; repeat--) {
        const auto begin = std::chrono::steady_clock::now();
        cells.next = 0;
#pragma omp parallel
        at_once ? solve<true>(cells, s) : solve<false>(cells, s);
        std::printf("%.9f\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    FILE *file = std::fopen(arguments[2], "wb");
    if (!file) return std::perror(arguments[2]), 1;
    const bool written = std::fwrite(answers.data(), sizeof(double), answers.size(), file) == answers.size();
    return std::fclose(file) || !written;
}
