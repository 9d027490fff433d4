// SPDX-License-Identifier: BSD-2-Clause
#include "host/kmsg.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <charconv>

#include "clock/clock.hpp"
#include "core/text.hpp"
#include "core/unique_fd.hpp"
#include "host/proc_file.hpp"

namespace vmwhy::host {
namespace {

namespace asio = boost::asio;

std::string unescape_text(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const char* const end = text.data() + i + 4;
    if (text[i] == '\\' && i + 3 < text.size() && text[i + 1] == 'x' &&
        std::from_chars(text.data() + i + 2, end, value, 16).ptr == end) {
      out += static_cast<char>(value);
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

std::optional<KmsgLine> parse_kmsg(std::string_view record) {
  const auto semicolon = record.find(';');
  if (semicolon == std::string_view::npos) return std::nullopt;
  const auto fields = split(record.substr(0, semicolon), ',');
  if (fields.size() < 3) return std::nullopt;
  const auto priority = parse_u64(fields[0]), sequence = parse_u64(fields[1]), stamp = parse_u64(fields[2]);
  if (!priority || !sequence || !stamp) return std::nullopt;
  std::string_view text = record.substr(semicolon + 1);
  text = text.substr(0, text.find('\n'));
  return KmsgLine{static_cast<std::uint32_t>(*priority & 7), *sequence, *stamp, unescape_text(text)};
}

std::uint64_t KmsgClock::to_boottime(std::uint64_t stamp_us, std::uint64_t arrival_ns,
                                     std::uint64_t boot_minus_mono_ns, bool live) {
  const auto stamp = static_cast<std::int64_t>(stamp_us * 1000);
  const auto arrival_mono = static_cast<std::int64_t>(arrival_ns - boot_minus_mono_ns);
  if (live && (!offset_ns_ || arrival_mono - stamp < *offset_ns_)) offset_ns_ = arrival_mono - stamp;
  const std::int64_t mono = std::max<std::int64_t>(stamp + offset_ns_.value_or(0), 0);
  return std::min(static_cast<std::uint64_t>(mono) + boot_minus_mono_ns, arrival_ns);
}

class Kmsg::Impl : public std::enable_shared_from_this<Kmsg::Impl> {
 public:
  Impl(asio::io_context& io, int fd, Handler handler) : stream_(io, fd), handler_(std::move(handler)) {}

  /// What the log holds from before; only its last second is of interest.
  void read_backlog() {
    const std::uint64_t now = clock::now_ns();
    since_ns_ = now > 1'000'000'000 ? now - 1'000'000'000 : 0;
    read_all(false);
    since_ns_ = 0;
  }

  void wait() {
    stream_.async_wait(asio::posix::stream_descriptor::wait_read,
                       [self = shared_from_this()](const boost::system::error_code& error) {
                         if (error || !self->handler_) return;
                         if (self->read_all(true)) self->wait();
                       });
  }

  bool read_all(bool live) {
    std::array<char, 8192> buffer;
    while (handler_) {
      const ssize_t n = ::read(stream_.native_handle(), buffer.data(), buffer.size());
      if (n > 0) {
        take({buffer.data(), static_cast<std::size_t>(n)}, live);
        continue;
      }
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 &&
          errno == EPIPE) {  // Overwritten before it was read; the next read is the oldest line left.
        overwritten_ = true;
        continue;
      }
      return n < 0 && (errno == EAGAIN || errno == EINVAL);
    }
    return false;
  }

  void stop() {
    handler_ = nullptr;
    boost::system::error_code ignored;
    stream_.close(ignored);
  }

 private:
  void take(std::string_view text, bool live) {
    const auto line = parse_kmsg(text);
    if (!line) return;
    const trace::ClockSnapshot now = clock::take_snapshot(trace::ClockReason::tick);
    const std::uint64_t time =
        clock_.to_boottime(line->stamp_us, now.boottime_ns, now.boottime_ns - now.monotonic_ns, live);
    if (overwritten_ && next_ != 0 && line->sequence > next_) {
      handler_(trace::make_record(now.boottime_ns, 0, trace::Loss{line->sequence - next_, last_ns_, time},
                                  "kmsg"));
    }
    overwritten_ = false;
    next_ = line->sequence + 1;
    last_ns_ = time;
    if (time < since_ns_ || !handler_) return;
    handler_(trace::make_record(time, 0, trace::KernelLog{line->sequence, line->severity, 0}, line->text));
  }

  asio::posix::stream_descriptor stream_;
  Handler handler_;
  KmsgClock clock_;
  std::uint64_t since_ns_ = 0;
  std::uint64_t next_ = 0;  ///< Sequence expected; 0: none yet.
  std::uint64_t last_ns_ = 0;
  bool overwritten_ = false;
};

Result<std::unique_ptr<Kmsg>> Kmsg::open(asio::io_context& io, Handler handler, const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  if (!fd) {
    return system_failure(errno, path,
                          errno == ENOENT ? "the kernel log device is missing here (a container?)"
                                          : "reading the kernel log needs CAP_SYSLOG: run as root");
  }
  struct stat fact;
  if (::fstat(fd.get(), &fact) != 0 || S_ISREG(fact.st_mode))
    return system_failure(ENOTTY, path, "it is not a kernel log device");
  auto impl = std::make_shared<Impl>(io, fd.release(), std::move(handler));
  impl->read_backlog();
  impl->wait();
  return std::unique_ptr<Kmsg>(new Kmsg(std::move(impl)));
}

Kmsg::Kmsg(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Kmsg::~Kmsg() {
  impl_->stop();
}

void Kmsg::drain() {
  impl_->read_all(true);
}

}  // namespace vmwhy::host
