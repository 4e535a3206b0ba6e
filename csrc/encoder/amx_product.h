// Products of 32 rows of bfloat16 planes with packed weights.
#pragma once

#include "amx.h"
#include "amx_tiles.h"

namespace {

using lwm::Bf16;
using lwm::kBlockRows;
using lwm::kPanelColumns;
using lwm::kTileDepth;
using lwm::kTileRows;
using lwm::kTileValues;
using lwm::TileMatrix;

// 32 rows, `stride` values apart, each of whole tiles of depth; planes `plane` values apart.
struct Rows {
    const Bf16* data;
    std::int64_t stride, plane;
};

inline TileConfig product_config() {
    TileConfig config;
    for (int t = 0; t < 8; ++t) config.shape(t, 16, 64);
    return config;
}

// Tiles 0 to 3 = the 32x32 sums of a panel. Small products first: their sum then keeps its bits.
template <int kPlanes>
inline void panel_sums(const Rows& left, const TileMatrix& right, std::int64_t panel) {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    const Bf16* weights = right.data + panel * right.depth_tiles * kPlanes * 2 * kTileValues;
    for (std::int64_t k = 0; k < right.depth_tiles; ++k) {
        for (int i = kPlanes - 1; i >= 0; --i) {
            const Bf16* rows = left.data + i * left.plane + k * kTileDepth;
            tile_load<4>(rows, 2 * left.stride);
            tile_load<5>(rows + kTileRows * left.stride, 2 * left.stride);
            for (int j = kPlanes - 1 - i; j >= 0; --j) {
                const Bf16* columns = weights + (k * kPlanes + j) * 2 * kTileValues;
                tile_load<6>(columns, 64);
                tile_load<7>(columns + kTileValues, 64);
                tile_dot<0, 4, 6>();
                tile_dot<1, 4, 7>();
                tile_dot<2, 5, 6>();
                tile_dot<3, 5, 7>();
            }
        }
    }
}

inline void store_panel(float* target, std::int64_t stride) {
    tile_store<0>(target, 4 * stride);
    tile_store<1>(target + 16, 4 * stride);
    tile_store<2>(target + 16 * stride, 4 * stride);
    tile_store<3>(target + 16 * stride + 16, 4 * stride);
}

// sums [32, columns] = left x right.
template <int kPlanes>
inline void product(const Rows& left, const TileMatrix& right, float* sums) {
    const std::int64_t stride = right.panels * kPanelColumns;
    for (std::int64_t panel = 0; panel < right.panels; ++panel) {
        panel_sums<kPlanes>(left, right, panel);
        store_panel(sums + panel * kPanelColumns, stride);
    }
}

// finish(panel, sums [32, 32]) for each panel, while the tiles work on the next one. sums: two panels of work space.
template <int kPlanes, typename Finish>
inline void product_by_panels(const Rows& left, const TileMatrix& right, float* sums, const Finish& finish) {
    constexpr std::int64_t kPanel = kBlockRows * kPanelColumns;
    for (std::int64_t panel = 0; panel < right.panels; ++panel) {
        panel_sums<kPlanes>(left, right, panel);
        if (panel > 0) finish(panel - 1, sums + (panel - 1) % 2 * kPanel);
        store_panel(sums + panel % 2 * kPanel, kPanelColumns);
    }
    if (right.panels > 0) finish(right.panels - 1, sums + (right.panels - 1) % 2 * kPanel);
}

}  // namespace
