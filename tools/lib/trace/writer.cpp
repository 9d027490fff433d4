// SPDX-License-Identifier: BSD-2-Clause
#include "trace/writer.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <condition_variable>
#include <csignal>
#include <ctime>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "trace/block_file.hpp"
#include "trace/create_file.hpp"
#include "trace/records_codec.hpp"
#include "trace/schema.hpp"

namespace vmwhy::trace {
namespace {

std::uint64_t read_clock(clockid_t id) {
  timespec ts{};
  ::clock_gettime(id, &ts);
  return static_cast<std::uint64_t>(ts.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(ts.tv_nsec);
}

struct Losses {
  std::uint64_t count = 0, first_ns = UINT64_MAX, last_ns = 0;

  void add(std::uint64_t n, std::uint64_t first, std::uint64_t last) {
    if (n == 0) return;
    count += n;
    first_ns = std::min(first_ns, first);
    last_ns = std::max(last_ns, last);
  }
};

// What the writing thread is given: a block's records, or meta data.
struct Job {
  std::uint64_t ticket = 0;
  std::unique_ptr<RecordsBuilder> records;
  Losses lost;
  std::optional<boost::json::object> meta;
};

// Signals belong to the program's own threads. SIGXFSZ too: past a file size limit write(2) then fails.
void block_signals() {
  sigset_t all;
  sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

// The same for a caller's thread while it writes itself: the signal is taken, not left to kill it afterwards.
class FileSizeSignal {
 public:
  FileSizeSignal() {
    sigemptyset(&signal_);
    sigaddset(&signal_, SIGXFSZ);
    ::pthread_sigmask(SIG_BLOCK, &signal_, &before_);
  }
  ~FileSizeSignal() {
    const timespec now{};
    if (sigismember(&before_, SIGXFSZ) == 0) ::sigtimedwait(&signal_, nullptr, &now);
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  FileSizeSignal(const FileSizeSignal&) = delete;
  FileSizeSignal& operator=(const FileSizeSignal&) = delete;

 private:
  sigset_t signal_{}, before_{};
};

}  // namespace

class Writer::Impl {
 public:
  Impl(BlockFile file, WriterOptions options)
      : options_(options),
        // Several blocks fit the queue, so that it can drain while the next one fills.
        block_bytes_(std::clamp<std::size_t>(
            options.block_bytes, 1,
            std::max<std::size_t>(1, std::min(options.queue_bytes / 4, kMaxBlockBytes / 8)))),
        file_(std::move(file)),
        open_(std::make_unique<RecordsBuilder>()) {
    stats_.bytes = file_.bytes();
    thread_ = std::thread([this] { run(); });
  }

  void append(const RecordView& record) {
    const std::scoped_lock lock(mutex_);
    const std::uint64_t time = record.header.time_ns;
    const std::size_t cost = sizeof(RecordHeader) + record.fixed.size() + record.text.size();
    if (closed_ || !stats_.error.empty() || queued_bytes_ + open_->bytes() + cost > options_.queue_bytes) {
      lose(1, time, time);
      return;
    }
    if (!open_->add(record)) {
      close_open();
      if (!open_->add(record)) {
        lose(1, time, time);
        wake_.notify_one();
        return;
      }
    }
    ++stats_.records;
    if (open_->records() == 1) {
      open_deadline_ = std::chrono::steady_clock::now() + options_.flush_interval;
      wake_.notify_one();
    }
    if (open_->bytes() >= block_bytes_) close_open();
  }

  void flush() {
    const std::scoped_lock lock(mutex_);
    close_open();
  }

  bool sync(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    close_open();
    const std::uint64_t wanted = tickets_;
    done_.wait_for(lock, timeout, [&] { return written_ >= wanted || !stats_.error.empty(); });
    return written_ >= wanted && stats_.error.empty();
  }

  void add_meta(boost::json::object meta) {
    const std::scoped_lock lock(mutex_);
    if (closed_) return;
    close_open();
    Job job;
    job.meta = std::move(meta);
    push(std::move(job));
  }

  WriterStats stats() const {
    const std::scoped_lock lock(mutex_);
    return stats_;
  }

  Result<WriterStats> close() {
    {
      const std::scoped_lock lock(mutex_);
      if (!closed_) {
        close_open();
        closed_ = true;
      }
      wake_.notify_one();
    }
    if (thread_.joinable()) {
      thread_.join();
      const FileSizeSignal taken;
      finish();
    }
    if (!stats_.error.empty()) return system_failure(file_.error_number(), stats_.error);
    return stats_;
  }

 private:
  // All of these with mutex_ held.

  void lose(std::uint64_t n, std::uint64_t first, std::uint64_t last) {
    stats_.lost += n;
    open_lost_.add(n, first, last);
  }

  void push(Job job) {
    job.ticket = ++tickets_;
    jobs_.push_back(std::move(job));
    wake_.notify_one();
  }

  // Hands the open block over. Losses wait for a file that can take them.
  void close_open() {
    if (open_->empty() && (open_lost_.count == 0 || !stats_.error.empty())) return;
    Job job;
    job.records = std::exchange(open_, nullptr);
    job.lost = std::exchange(open_lost_, {});
    queued_bytes_ += job.records->bytes();
    if (spare_.empty()) {
      open_ = std::make_unique<RecordsBuilder>();
    } else {
      open_ = std::move(spare_.back());
      spare_.pop_back();
    }
    push(std::move(job));
  }

  // A record waits no longer than the interval; a loss is told as soon as the queue is empty.
  bool due() const {
    if (open_->empty()) return open_lost_.count != 0 && stats_.error.empty();
    return std::chrono::steady_clock::now() >= open_deadline_;
  }

  // ---- the writing thread

  void run() {
    block_signals();
    std::unique_lock lock(mutex_);
    for (;;) {
      if (jobs_.empty() && !open_->empty() && std::chrono::steady_clock::now() >= open_deadline_)
        close_open();
      if (jobs_.empty()) {
        if (closed_) return;
        if (open_->empty())
          wake_.wait(lock);
        else
          wake_.wait_until(lock, open_deadline_);
        continue;
      }
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      const bool written = write_guarded(job);
      lock.lock();
      account(job, written);
      done_.notify_all();
    }
  }

  void account(Job& job, bool written) {
    written_ = job.ticket;
    stats_.bytes = file_.bytes();
    if (stats_.error.empty() && !written)
      stats_.error = file_.error().empty() ? thread_error_ : file_.error();
    if (!job.records) return;
    queued_bytes_ -= job.records->bytes();
    if (!written) {
      // What could not be written is lost; the end block says so if it can.
      stats_.records -= job.records->records();
      lose(job.records->records(), job.records->first_ns(), job.records->last_ns());
      open_lost_.add(job.lost.count, job.lost.first_ns, job.lost.last_ns);
    }
    job.records->clear();
    if (spare_.size() < 4) spare_.push_back(std::move(job.records));
  }

  bool write_guarded(const Job& job) {
    try {
      return thread_error_.empty() && write(job);
    } catch (const std::exception& e) {  // Out of memory.
      thread_error_ = std::string("the trace's writing thread failed: ") + e.what() + "; recording has ended";
      return false;
    }
  }

  bool write(const Job& job) {
    raw_.clear();
    if (job.meta) {
      raw_ = boost::json::serialize(*job.meta);
      return raw_.size() > kMaxBlockBytes || file_.write_block({.kind = BlockKind::meta}, raw_);
    }
    job.records->encode(raw_);
    BlockFacts facts{.kind = BlockKind::records, .records = job.records->records(), .lost = job.lost.count};
    facts.first_ns = std::min(job.records->first_ns(), job.lost.first_ns);
    facts.last_ns = std::max(job.records->last_ns(), job.lost.last_ns);
    return file_.write_block(facts, raw_);
  }

  // After the thread has ended.
  void finish() {
    boost::json::object end{{"reason", stats_.error.empty() ? "closed" : "failed"},
                            {"records", stats_.records},
                            {"lost", stats_.lost}};
    if (!stats_.error.empty()) end["error"] = stats_.error;
    file_.finish(boost::json::serialize(end), open_lost_.count);
    file_.close();
    stats_.bytes = file_.bytes();
    if (stats_.error.empty()) stats_.error = file_.error();
  }

  const WriterOptions options_;
  const std::size_t block_bytes_;
  BlockFile file_;            // The writing thread's; close()'s once that has ended.
  std::string raw_;           // The writing thread's.
  std::string thread_error_;  // The writing thread's.

  mutable std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::unique_ptr<RecordsBuilder> open_;
  std::chrono::steady_clock::time_point open_deadline_;
  Losses open_lost_;
  std::deque<Job> jobs_;
  std::vector<std::unique_ptr<RecordsBuilder>> spare_;
  std::size_t queued_bytes_ = 0;
  std::uint64_t tickets_ = 0, written_ = 0;
  WriterStats stats_;
  bool closed_ = false;
  std::thread thread_;
};

Result<std::unique_ptr<Writer>> Writer::create(const std::string& path, boost::json::object meta,
                                               WriterOptions options) {
  auto created = create_trace_file(path);
  if (!created) return created.error();
  const bool fresh = created->fresh;
  BlockFile file(std::move(created->fd), path, options.level);
  meta["schema"] = schema_json();
  const FileSizeSignal taken;
  const bool begun = file.write(encode_file_header(static_cast<std::int64_t>(read_clock(CLOCK_REALTIME)),
                                                   read_clock(CLOCK_BOOTTIME))) &&
                     file.write_block({.kind = BlockKind::meta}, boost::json::serialize(meta));
  if (!begun) {
    if (fresh) ::unlink(path.c_str());
    return system_failure(file.error_number(), "cannot write the trace " + path,
                          "choose a place on another file system");
  }
  file.keep_spare();
  return std::unique_ptr<Writer>(new Writer(std::make_unique<Impl>(std::move(file), options)));
}

Writer::Writer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Writer::~Writer() {
  (void)impl_->close();
}

void Writer::append(const RecordView& record) {
  impl_->append(record);
}
void Writer::flush() {
  impl_->flush();
}
bool Writer::sync(std::chrono::milliseconds timeout) {
  return impl_->sync(timeout);
}
void Writer::add_meta(boost::json::object meta) {
  impl_->add_meta(std::move(meta));
}
WriterStats Writer::stats() const {
  return impl_->stats();
}
Result<WriterStats> Writer::close() {
  return impl_->close();
}

}  // namespace vmwhy::trace
