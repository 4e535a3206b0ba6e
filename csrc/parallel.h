// A small thread pool: started at first use, safe to call from several threads, survives fork.
#pragma once

#include <cstdint>
#include <functional>

namespace lwm {

// Threads used when a caller asks for 0: LWM_FAST_NUM_THREADS, else the processors this process may use.
// Throws std::invalid_argument when LWM_FAST_NUM_THREADS is not a positive integer.
int default_num_threads();

// Calls body(begin, end) for consecutive ranges of `grain` items that cover [0, count).
//
// Which thread takes a range is decided at run time; the ranges themselves depend on `grain` alone, so
// a body that treats its items one by one gives the same result for any number of threads.
// num_threads: 0 = default_num_threads(). The first exception of a body is thrown again here.
void parallel_for(std::int64_t count, std::int64_t grain, int num_threads,
                  const std::function<void(std::int64_t begin, std::int64_t end)>& body);

}  // namespace lwm
