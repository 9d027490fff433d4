// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/ring.hpp"

#include <bpf/libbpf.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <optional>

namespace vmwhy::bpf {

// Messages between two turns of the io_context: a flood must not starve timers and signals.
constexpr std::size_t kTurn = 4096;

class RingReader::Impl {
 public:
  ~Impl() {
    stop();
    ring_buffer__free(ring);
  }

  // Called by libbpf: nothing may be thrown through it. A negative result ends consume(); the message counts
  // as read.
  static int on_sample(void* context, void* data, std::size_t bytes) noexcept {
    auto* self = static_cast<Impl*>(context);
    self->on_message(data, bytes);
    return ++self->read >= self->limit ? -EINTR : 0;
  }

  std::size_t drain(std::size_t most) {
    if (!ring || most == 0) return 0;
    read = 0;
    limit = most;
    ring_buffer__consume(ring);
    return read;
  }

  void wait() {
    descriptor->async_wait(boost::asio::posix::stream_descriptor::wait_read,
                           [this](boost::system::error_code error) {
                             if (error || !descriptor) return;
                             drain(kTurn);
                             wait();
                           });
  }

  void stop() {
    if (!descriptor) return;
    boost::system::error_code ignored;
    descriptor->close(ignored);
    descriptor.reset();
  }

  ring_buffer* ring = nullptr;
  OnMessage on_message;
  std::optional<boost::asio::posix::stream_descriptor> descriptor;
  std::size_t read = 0, limit = 0;
};

RingReader::RingReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RingReader::~RingReader() = default;

Result<std::unique_ptr<RingReader>> RingReader::create(int map_fd, OnMessage on_message) {
  auto impl = std::make_unique<Impl>();
  impl->on_message = std::move(on_message);
  impl->ring = ring_buffer__new(map_fd, &Impl::on_sample, impl.get(), nullptr);
  if (!impl->ring) return system_failure(errno, "cannot map the BPF ring buffer");
  return std::unique_ptr<RingReader>(new RingReader(std::move(impl)));
}

void RingReader::start(boost::asio::io_context& io) {
  // A duplicate: asio closes what it is given, and the ring keeps its own.
  impl_->descriptor.emplace(io, ::dup(ring_buffer__epoll_fd(impl_->ring)));
  impl_->wait();
}

void RingReader::stop() {
  impl_->stop();
}
std::size_t RingReader::drain(std::size_t limit) {
  return impl_->drain(limit);
}

}  // namespace vmwhy::bpf
