#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace lwm {
namespace {

constexpr int kMaxThreads = 1024;

std::int64_t process_id() {
#if defined(_WIN32)
    return 0;  // no fork there
#else
    return getpid();
#endif
}

// One parallel_for: helpers and the caller take ranges until none is left.
class Job {
public:
    Job(std::int64_t count, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body)
        : count_(count), grain_(grain), body_(body) {}

    void work() {
        for (;;) {
            const std::int64_t range = next_.fetch_add(1);
            if (range >= ranges()) return;
            const std::int64_t begin = range * grain_;
            try {
                if (!failed_) body_(begin, std::min(count_, begin + grain_));
            } catch (...) {
                const std::lock_guard<std::mutex> lock(mutex_);
                if (!error_) error_ = std::current_exception();
                failed_ = true;
            }
            const std::lock_guard<std::mutex> lock(mutex_);
            if (++done_ == ranges()) finished_.notify_all();
        }
    }

    void wait() {
        std::unique_lock<std::mutex> lock(mutex_);
        finished_.wait(lock, [this] { return done_ == ranges(); });
        if (error_) std::rethrow_exception(error_);
    }

    std::int64_t ranges() const { return (count_ + grain_ - 1) / grain_; }

private:
    const std::int64_t count_, grain_;
    const std::function<void(std::int64_t, std::int64_t)>& body_;  // used only while a range is left
    std::atomic<std::int64_t> next_{0};
    std::atomic<bool> failed_{false};
    std::mutex mutex_;
    std::condition_variable finished_;
    std::int64_t done_ = 0;
    std::exception_ptr error_;
};

class Pool {
public:
    explicit Pool(std::int64_t owner) : pid(owner) {}

    const std::int64_t pid;

    // Offers `helpers` places in the job to the workers.
    void offer(const std::shared_ptr<Job>& job, int helpers) {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (int i = 0; i < helpers; ++i) queue_.push_back(job);
        try {
            for (; num_workers_ < helpers; ++num_workers_) std::thread(&Pool::serve, this).detach();
        } catch (const std::system_error&) {
            // The system gives no more threads: those that run, and the caller, do the work.
        }
        wake_.notify_all();
    }

    // Drops the places nobody took, so that the queue never outlives its jobs.
    void withdraw(const std::shared_ptr<Job>& job) {
        const std::lock_guard<std::mutex> lock(mutex_);
        queue_.erase(std::remove(queue_.begin(), queue_.end(), job), queue_.end());
    }

private:
    [[noreturn]] void serve() {
        for (;;) {
            std::shared_ptr<Job> job;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [this] { return !queue_.empty(); });
                job = std::move(queue_.front());
                queue_.pop_front();
            }
            job->work();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::shared_ptr<Job>> queue_;
    int num_workers_ = 0;
};

// The pool is never destroyed: its workers sleep until the process ends. A forked child has no workers
// and perhaps a locked mutex, so it leaves the inherited pool alone and makes its own.
Pool& pool() {
    static std::atomic<Pool*> current{nullptr};
    const std::int64_t pid = process_id();
    Pool* found = current.load();
    if (found != nullptr && found->pid == pid) return *found;
    auto fresh = std::make_unique<Pool>(pid);
    while (found == nullptr || found->pid != pid) {
        if (current.compare_exchange_weak(found, fresh.get())) return *fresh.release();
    }
    return *found;
}

}  // namespace

int default_num_threads() {
    const char* text = std::getenv("LWM_FAST_NUM_THREADS");
    if (text != nullptr && *text != '\0') {
        char* end = nullptr;
        const long value = std::strtol(text, &end, 10);
        if (*end != '\0' || value < 1 || value > kMaxThreads) {
            throw std::invalid_argument("LWM_FAST_NUM_THREADS=" + std::string(text) +
                                        " is not a number of threads: set it to 1.." +
                                        std::to_string(kMaxThreads) + " or unset it");
        }
        return static_cast<int>(value);
    }
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void parallel_for(std::int64_t count, std::int64_t grain, int num_threads,
                  const std::function<void(std::int64_t, std::int64_t)>& body) {
    if (num_threads < 0 || num_threads > kMaxThreads) {
        throw std::invalid_argument("num_threads: got " + std::to_string(num_threads) + ", expected 0.." +
                                    std::to_string(kMaxThreads) + " (0: as many as there are processors)");
    }
    const int threads = num_threads == 0 ? default_num_threads() : num_threads;
    if (count <= 0) return;
    grain = std::max<std::int64_t>(1, grain);
    const auto job = std::make_shared<Job>(count, grain, body);
    const int helpers = static_cast<int>(std::min<std::int64_t>(threads, job->ranges())) - 1;
    if (helpers <= 0) {
        body(0, count);
        return;
    }
    Pool& workers = pool();
    workers.offer(job, helpers);
    job->work();
    workers.withdraw(job);
    job->wait();
}

}  // namespace lwm
