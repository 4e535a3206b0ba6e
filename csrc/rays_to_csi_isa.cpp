// One user's channel as a real matrix product: the antenna phasors of all rays, as (re, im) pairs [N, 2P],
// times the subcarrier phasors, as rows (re, im, ...) and (-im, re, ...) [2P, 2SC]. Phasors are made in
// double and rounded once; the product runs in float32.
#include "isa.h"
#include "kernels.h"
#include "real_math.h"

namespace lwm::LWM_ISA {

void rays_user(const RayGrid& grid, const Rays& rays, const RayScratch& scratch, float* out);

namespace {

// Per-ray numbers of the rays that count, in turns (1 turn = 2 pi).
struct Kept {
    double* amplitude;
    double* phase;
    double* step_h;
    double* step_v;
    double* step_k;
    double* zenith;
    double* azimuth;
    std::int64_t count;
};

double reduce(double turns) { return turns - std::nearbyint(turns); }  // to |turns| <= 1/2

void keep_rays(const RayGrid& grid, const Rays& rays, Kept* kept) {
    const double num_subcarriers = static_cast<double>(grid.num_subcarriers);
    std::int64_t count = 0;
    for (std::int64_t p = 0; p < rays.count; ++p) {
        const double delay = double{rays.delay_s[p]} * grid.bandwidth;  // samples
        if (delay >= num_subcarriers) continue;
        kept->amplitude[count] = rays.power_db[p];
        kept->phase[count] = reduce(rays.phase_deg[p] / 360.0);
        kept->step_k[count] = reduce(-delay / num_subcarriers);
        kept->zenith[count] = reduce(rays.zenith_deg[p] / 360.0);
        kept->azimuth[count] = reduce(rays.azimuth_deg[p] / 360.0);
        ++count;
    }
    kept->count = count;
    constexpr double kLog10Over20 = 0.115129254649702284;
    const double share = 1.0 / std::sqrt(num_subcarriers);
    for (std::int64_t p = 0; p < count; ++p) {
        kept->amplitude[p] = std::exp(kept->amplitude[p] * kLog10Over20) * share;
    }
    for (std::int64_t p = 0; p < count; ++p) {
        double cos_zenith, sin_zenith, cos_azimuth, sin_azimuth;
        cos_sin_turns(kept->zenith[p], &cos_zenith, &sin_zenith);
        cos_sin_turns(kept->azimuth[p], &cos_azimuth, &sin_azimuth);
        const double x = sin_zenith * cos_azimuth, y = sin_zenith * sin_azimuth, z = cos_zenith;
        kept->step_h[p] = reduce(grid.spacing * (grid.axis_h[0] * x + grid.axis_h[1] * y + grid.axis_h[2] * z));
        kept->step_v[p] = reduce(grid.spacing * (grid.axis_v[0] * x + grid.axis_v[1] * y + grid.axis_v[2] * z));
    }
}

void multiply(const double* __restrict source_re, const double* __restrict source_im, std::int64_t count,
              double factor_re, double factor_im, double* __restrict target_re, double* __restrict target_im) {
    for (std::int64_t i = 0; i < count; ++i) {
        const double a = source_re[i], b = source_im[i];
        target_re[i] = a * factor_re - b * factor_im;
        target_im[i] = a * factor_im + b * factor_re;
    }
}

// (re, im)[i] = first * exp(j 2 pi i step). The first values are computed directly; then each multiplication
// by the phasor of the next power of two doubles what is there. Squaring doubles that phasor's error as well:
// it stays below 1e-11 for 4096 steps, far under float32's 6e-8.
void geometric(double first_re, double first_im, double step, std::int64_t count, double* re, double* im) {
    constexpr std::int64_t kDirect = 16;
    double direct_re[kDirect], direct_im[kDirect];
    for (std::int64_t i = 0; i < kDirect; ++i) {
        const double turns = static_cast<double>(i) * step;
        cos_sin_turns(turns - round_small(turns), direct_re + i, direct_im + i);
    }
    const std::int64_t head = count < kDirect ? count : kDirect;
    multiply(direct_re, direct_im, head, first_re, first_im, re, im);
    double jump_re = direct_re[kDirect / 2], jump_im = direct_im[kDirect / 2];
    for (std::int64_t done = kDirect; done < count; done *= 2) {
        const double squared_re = jump_re * jump_re - jump_im * jump_im;
        jump_im = 2.0 * jump_re * jump_im;
        jump_re = squared_re;
        const std::int64_t length = done < count - done ? done : count - done;
        multiply(re, im, length, jump_re, jump_im, re + done, im + done);
    }
}

// Column pair p of the antenna matrix [N, 2P]; element v * num_h + h.
void antenna_columns(const RayGrid& grid, const Kept& kept, std::int64_t p, double* work, float* matrix) {
    const std::int64_t num_antennas = grid.num_h * grid.num_v;
    double* re = work;
    double* im = re + num_antennas;
    double* row_re = im + num_antennas;
    double* row_im = row_re + grid.num_v;
    double cosine, sine;
    cos_sin_turns(kept.phase[p], &cosine, &sine);
    const double first_re = kept.amplitude[p] * cosine, first_im = kept.amplitude[p] * sine;
    geometric(first_re, first_im, kept.step_h[p], grid.num_h, re, im);
    if (grid.num_v > 1) {
        geometric(1.0, 0.0, kept.step_v[p], grid.num_v, row_re, row_im);
        for (std::int64_t v = 1; v < grid.num_v; ++v) {
            multiply(re, im, grid.num_h, row_re[v], row_im[v], re + v * grid.num_h, im + v * grid.num_h);
        }
    }
    float* column = matrix + 2 * p;
    for (std::int64_t m = 0; m < num_antennas; ++m) {
        column[2 * kept.count * m] = static_cast<float>(re[m]);
        column[2 * kept.count * m + 1] = static_cast<float>(im[m]);
    }
}

// Row pair p of the subcarrier matrix [2P, columns], padded with zeros.
void subcarrier_rows(const RayGrid& grid, const Kept& kept, std::int64_t p, double* work, float* matrix) {
    const std::int64_t count = grid.num_subcarriers, columns = rays_padded_columns(grid);
    const double* re = work;
    const double* im = work + count;
    geometric(1.0, 0.0, kept.step_k[p], count, work, work + count);
    float* __restrict direct = matrix + 2 * p * columns;
    float* __restrict rotated = direct + columns;
    for (std::int64_t k = 0; k < count; ++k) {
        const float a = static_cast<float>(re[k]), b = static_cast<float>(im[k]);
        direct[2 * k] = a;
        direct[2 * k + 1] = b;
        rotated[2 * k] = -b;
        rotated[2 * k + 1] = a;
    }
    for (std::int64_t i = 2 * count; i < columns; ++i) direct[i] = rotated[i] = 0.0f;
}

constexpr int kTileRows = 4;
// Vectors side by side in a tile: as many as the registers hold beside four rows of sums.
constexpr int kWide = LWM_VECTOR_BYTES == 64 ? 4 : 2;
constexpr std::int64_t kTileColumns = kWide * kVectorWidth;
static_assert(kRayBlock % kTileColumns == 0, "padding must hold whole tiles");

// out[rows, kTileColumns] = a[rows, depth] * b[depth, kTileColumns]
template <int rows>
void product_tile(const float* a, const float* b, std::int64_t depth, std::int64_t b_stride, float* out,
                  std::int64_t out_stride) {
    FloatVector sum[rows][kWide] = {};
    for (std::int64_t i = 0; i < depth; ++i) {
        FloatVector right[kWide];
        for (int w = 0; w < kWide; ++w) right[w] = load(b + i * b_stride + w * kVectorWidth);
        for (int r = 0; r < rows; ++r) {
            const float left = a[r * depth + i];
            for (int w = 0; w < kWide; ++w) sum[r][w] += right[w] * left;
        }
    }
    for (int r = 0; r < rows; ++r) {
        for (int w = 0; w < kWide; ++w) store(out + r * out_stride + w * kVectorWidth, sum[r][w]);
    }
}

void product_rows(int rows, const float* a, const float* b, std::int64_t depth, std::int64_t b_stride,
                  float* out, std::int64_t out_stride) {
    if (rows == kTileRows) {
        product_tile<kTileRows>(a, b, depth, b_stride, out, out_stride);
        return;
    }
    for (int r = 0; r < rows; ++r) {
        product_tile<1>(a + r * depth, b, depth, b_stride, out + r * out_stride, out_stride);
    }
}

// out[num_rows, columns] = a[num_rows, depth] * b[depth, columns], b padded to whole tiles.
// spare: one tile, for the columns that do not fill one.
void product(const float* a, const float* b, std::int64_t num_rows, std::int64_t depth, std::int64_t columns,
             std::int64_t b_stride, float* spare, float* out) {
    for (std::int64_t c = 0; c < columns; c += kTileColumns) {
        const std::int64_t width = columns - c < kTileColumns ? columns - c : kTileColumns;
        for (std::int64_t r = 0; r < num_rows; r += kTileRows) {
            const int rows = num_rows - r < kTileRows ? static_cast<int>(num_rows - r) : kTileRows;
            float* target = out + r * columns + c;
            if (width == kTileColumns) {
                product_rows(rows, a + r * depth, b + c, depth, b_stride, target, columns);
                continue;
            }
            product_rows(rows, a + r * depth, b + c, depth, b_stride, spare, kTileColumns);
            for (int i = 0; i < rows; ++i) {
                for (std::int64_t j = 0; j < width; ++j) target[i * columns + j] = spare[i * kTileColumns + j];
            }
        }
    }
}

}  // namespace

void rays_user(const RayGrid& grid, const Rays& rays, const RayScratch& scratch, float* out) {
    const std::int64_t num_antennas = grid.num_h * grid.num_v, columns = 2 * grid.num_subcarriers;
    double* work = scratch.doubles;
    Kept kept = {};
    double** const arrays[] = {&kept.amplitude, &kept.phase,  &kept.step_h, &kept.step_v,
                               &kept.step_k,    &kept.zenith, &kept.azimuth};
    for (double** array : arrays) {
        *array = work;
        work += rays.count;
    }
    keep_rays(grid, rays, &kept);

    float* antennas = scratch.floats;                              // [num_antennas, 2P]
    float* subcarriers = antennas + 2 * rays.count * num_antennas;  // [2P, padded columns]
    float* spare = subcarriers + 2 * rays.count * rays_padded_columns(grid);
    for (std::int64_t p = 0; p < kept.count; ++p) {
        antenna_columns(grid, kept, p, work, antennas);
        subcarrier_rows(grid, kept, p, work, subcarriers);
    }
    product(antennas, subcarriers, num_antennas, 2 * kept.count, columns, rays_padded_columns(grid), spare, out);
}

}  // namespace lwm::LWM_ISA
