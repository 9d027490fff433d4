// SPDX-License-Identifier: BSD-2-Clause
#include "host/storage_probe.hpp"

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <cstring>
#include <deque>
#include <unordered_map>

#include "core/unique_fd.hpp"
#include "host/storage_wire.hpp"
#include "trace/record.hpp"

namespace vmwhy::host {

namespace asio = boost::asio;

class StorageProbe::Impl {
 public:
  using Handler = std::function<void(const wire::Answer&)>;

  Impl(UniqueFd socket, pid_t helper) : socket_(std::move(socket)), helper_(helper) {}

  ~Impl() {
    if (stream_) stream_->close();
    socket_.reset();
    // It ends when its socket closes. A helper that cannot be waited for yet is left to init.
    for (int i = 0; i < 50; ++i) {
      if (::waitpid(helper_, nullptr, WNOHANG) != 0) return;
      ::usleep(1000);
    }
    ::kill(helper_, SIGKILL);
    ::waitpid(helper_, nullptr, WNOHANG);
  }

  void attach(asio::io_context& io) {
    io_ = &io;
    stream_ = std::make_shared<asio::posix::stream_descriptor>(io, socket_.release());
    stream_->non_blocking(true);
    wait();
  }

  void request(wire::Kind kind, std::uint32_t pid, const std::string& path,
               std::chrono::milliseconds deadline, Handler handler) {
    auto request = std::make_unique<wire::Request>();
    *request = {};
    request->id = ++last_id_;
    request->kind = kind;
    request->pid = pid;
    request->deadline_ms = static_cast<std::uint32_t>(deadline.count());
    const bool fits = path.size() < sizeof(request->path) && path.find('\0') == std::string::npos;
    if (fits && stream_ && !dead_) {
      std::memcpy(request->path, path.data(), path.size());
      queue_.push_back({std::move(request), std::move(handler)});
      return send_queued();
    }
    if (io_) asio::post(*io_, [handler = std::move(handler)] { handler(unreached()); });
  }

  pid_t helper() const { return helper_; }

 private:
  void wait() {
    stream_->async_wait(asio::posix::stream_descriptor::wait_read,
                        [this, alive = std::weak_ptr(stream_)](const boost::system::error_code& error) {
                          if (error || alive.expired()) return;
                          if (receive()) wait();
                        });
  }

  struct Queued {
    std::unique_ptr<wire::Request> request;
    Handler handler;
  };

  static const wire::Answer& unreached() {
    static const wire::Answer answer = [] {
      wire::Answer out;
      std::memset(static_cast<void*>(&out), 0, sizeof(out));
      out.file.flags = trace::kNodeUnreachable;
      return out;
    }();
    return answer;
  }

  /// As many as the sockets' buffers hold in both directions; the rest follows as answers come.
  void send_queued() {
    while (!queue_.empty() && waiting_.size() < kInFlight) {
      const wire::Request& request = *queue_.front().request;
      const ssize_t sent =
          ::send(stream_->native_handle(), &request, sizeof(request), MSG_NOSIGNAL | MSG_DONTWAIT);
      // The helper's death shows on the reading side, which then answers for all that wait.
      if (sent < 0 && (errno == EAGAIN || errno == EINTR) && !waiting_.empty()) return;
      waiting_.emplace(request.id, std::move(queue_.front().handler));
      queue_.pop_front();
    }
  }

  /// False when the helper is gone: everything that waits is told so.
  bool receive() {
    static thread_local wire::Answer answer;
    const std::weak_ptr alive(stream_);
    while (true) {
      const ssize_t n = ::recv(stream_->native_handle(), &answer, sizeof(answer), MSG_DONTWAIT);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
      if (n <= 0) break;
      if (n != static_cast<ssize_t>(sizeof(answer))) continue;
      const auto found = waiting_.find(answer.id);
      if (found == waiting_.end()) continue;
      const Handler handler = std::move(found->second);
      waiting_.erase(found);
      handler(answer);
      if (alive.expired()) return false;
      send_queued();
    }
    dead_ = true;
    auto orphans = std::move(waiting_);
    auto queued = std::move(queue_);
    waiting_.clear();
    queue_.clear();
    for (auto& [id, handler] : orphans) handler(unreached());
    for (auto& entry : queued) entry.handler(unreached());
    return false;
  }

  UniqueFd socket_;
  pid_t helper_;
  asio::io_context* io_ = nullptr;
  std::shared_ptr<asio::posix::stream_descriptor> stream_;
  static constexpr std::size_t kInFlight = 16;
  std::deque<Queued> queue_;
  std::unordered_map<std::uint64_t, Handler> waiting_;
  bool dead_ = false;
  std::uint64_t last_id_ = 0;
};

Result<std::unique_ptr<StorageProbe>> StorageProbe::start() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return system_failure(errno, "cannot talk to a helper process");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return system_failure(errno, "cannot start the helper process");
  if (pid == 0) {
    ours.reset();
    wire::serve(theirs.release());
  }
  return std::unique_ptr<StorageProbe>(new StorageProbe(std::make_unique<Impl>(std::move(ours), pid)));
}

StorageProbe::StorageProbe(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StorageProbe::~StorageProbe() = default;

void StorageProbe::attach(asio::io_context& io) {
  impl_->attach(io);
}

void StorageProbe::look(std::uint32_t pid, const std::string& path, std::chrono::milliseconds deadline,
                        std::function<void(const NodeAnswer&)> handler) {
  impl_->request(wire::Kind::node, pid, path, deadline,
                 [handler = std::move(handler), pid, path](const wire::Answer& answer) {
                   NodeAnswer out;
                   out.reached = answer.reached != 0;
                   out.facts.file = answer.file;
                   const std::string_view text(answer.text, answer.text_size);
                   out.facts.mount_point = trace::text_field(text, 0);
                   out.facts.fs_type = trace::text_field(text, 1);
                   out.facts.mount_source = trace::text_field(text, 2);
                   out.facts.devices = trace::text_field(text, 3);
                   out.facts.quotas = trace::text_field(text, 4);
                   if (!out.reached) add_mount(out.facts, pid, path);
                   handler(out);
                 });
}

void StorageProbe::tail(std::uint32_t pid, const std::string& path, std::chrono::milliseconds deadline,
                        std::function<void(const TailAnswer&)> handler) {
  impl_->request(wire::Kind::tail, pid, path, deadline,
                 [handler = std::move(handler)](const wire::Answer& answer) {
                   TailAnswer out;
                   out.reached = answer.reached != 0;
                   out.tail.offset = answer.tail_offset;
                   out.tail.error = answer.tail_error;
                   out.tail.text.assign(answer.text, answer.text_size);
                   handler(out);
                 });
}

std::uint32_t StorageProbe::helper_pid() const {
  return static_cast<std::uint32_t>(impl_->helper());
}

}  // namespace vmwhy::host
