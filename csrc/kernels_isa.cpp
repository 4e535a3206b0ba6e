// The table of this instruction set. Each operation's loops are in its own *_isa.cpp.
#include "isa.h"
#include "kernels.h"

namespace lwm::LWM_ISA {

void split_complex(const float*, std::int64_t, float, float*, float*);
void join_complex(const float*, const float*, std::int64_t, float, float*);
void cut_patches(const float*, std::int64_t, std::int64_t, float, float*);
void paste_patches(const float*, std::int64_t, std::int64_t, float, float*);
void add_noise(float*, std::int64_t, float, const DrawKey&);
void draw_words(const DrawKey&, std::uint32_t, std::int64_t, std::int64_t, std::uint32_t*);
std::uint32_t largest_bits(const float*, std::int64_t);
double sum_abs(const float*, std::int64_t);
void rays_user(const RayGrid&, const Rays&, const RayScratch&, float*);
extern const TrainingKernels kTraining;

const Kernels& table();

const Kernels& table() {
    static constexpr Kernels kTable = {split_complex, join_complex, cut_patches, paste_patches, add_noise,
                                       draw_words,    largest_bits, sum_abs,     rays_user,     &kTraining};
    return kTable;
}

}  // namespace lwm::LWM_ISA
