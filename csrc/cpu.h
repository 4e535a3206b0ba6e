// What this processor can run.
#pragma once

#include <string>
#include <vector>

namespace lwm {

enum class Isa { portable = 0, avx2 = 1, avx512 = 2 };

// Features found by CPUID that the operating system also saves on a task switch (XGETBV),
// under their Linux names, e.g. "avx2", "avx512f", "amx_bf16".
const std::vector<std::string>& cpu_features();

bool cpu_has(const char* feature);

// True when the processor has everything the files compiled for `isa` use.
bool cpu_runs(Isa isa);

const char* isa_name(Isa isa);

}  // namespace lwm
