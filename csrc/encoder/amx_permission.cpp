#include "../cpu.h"
#include "amx_encoder.h"

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lwm {
namespace {

// Tile registers are 8 KB of state that Linux saves only for processes which asked. The permission covers all threads
// and survives fork. It is refused where a thread's alternative signal stack could not hold the state.
bool tiles_permitted() {
#if defined(__linux__) && defined(__x86_64__)
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

}  // namespace

bool amx_runs() {
    static const bool runs = cpu_runs(Isa::avx512) && cpu_has("avx512_bf16") && cpu_has("amx_tile") &&
                             cpu_has("amx_bf16") && tiles_permitted();
    return runs;
}

}  // namespace lwm
