// The training table of this instruction set.
#include "isa.h"
#include "training_kernels.h"

namespace lwm::LWM_ISA {

void draw_keep(const KeepPlan&, std::int64_t, std::int64_t, std::uint8_t*);
void norm_forward(const NormForward&, std::int64_t, std::int64_t);
void norm_backward(const NormBackward&, std::int64_t, std::int64_t, float*);
void relu_dropout(float*, const float*, std::int64_t, const KeepPlan*, std::int64_t, std::int64_t);
void relu_dropout_backward(float*, const float*, std::int64_t, float, std::int64_t, std::int64_t, float*);
void dropout_add(float*, const float*, const float*, std::int64_t, const KeepPlan*, std::int64_t, std::int64_t);
void dropout_backward(const float*, float*, std::int64_t, const KeepPlan*, std::int64_t, std::int64_t, float*);
void attention_forward(const AttentionSizes&, const float*, const float*, float*, float*, std::int64_t,
                       float*);
void attention_backward(const AttentionSizes&, const float*, const float*, const float*, const float*,
                        const float*, float*, float*, std::int64_t, float*);
bool attends(std::int64_t);
std::int64_t attention_scratch(const AttentionSizes&);

extern const TrainingKernels kTraining;
const TrainingKernels kTraining = {draw_keep,         norm_forward,     norm_backward,     relu_dropout,
                                   relu_dropout_backward, dropout_add,  dropout_backward,  attention_forward,
                                   attention_backward, attends,         attention_scratch};

}  // namespace lwm::LWM_ISA
