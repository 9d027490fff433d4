// SPDX-License-Identifier: BSD-2-Clause
#include "host/libvirt_domain.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>

#include "core/spawn.hpp"
#include "core/text.hpp"

namespace vmwhy::host {
namespace {

/// A state and its reason are some thirty bytes.
constexpr std::size_t kMostBytes = 256;

pid_t start_virsh(const std::string& name, int out) {
  SpawnOptions options{.args = {"virsh", "--quiet", "--readonly", "--connect", "qemu:///system", "domstate",
                                "--reason", "--domain", name},
                       .environment = own_environment(),
                       .standard_output = out,
                       .quiet = true};
  std::erase_if(options.environment, [](const std::string& variable) { return variable.starts_with("LC_"); });
  options.environment.emplace_back("LC_ALL=C");
  const Result<pid_t> pid = spawn(options);
  return pid ? *pid : -1;
}

class Question : public std::enable_shared_from_this<Question> {
 public:
  Question(boost::asio::io_context& io, std::function<void(const std::string&)> handler)
      : out_(io), timer_(io), handler_(std::move(handler)) {}
  ~Question() { end_virsh(); }

  bool start(const std::string& name, std::chrono::milliseconds deadline) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return false;
    pid_ = start_virsh(name, ends[1]);
    ::close(ends[1]);
    out_.assign(ends[0]);
    if (pid_ < 0) return false;
    timer_.expires_after(deadline);
    timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
      if (!error) self->finish(false);
    });
    read();
    return true;
  }

 private:
  void read() {
    out_.async_read_some(
        boost::asio::buffer(buffer_),
        [self = shared_from_this()](const boost::system::error_code& error, std::size_t bytes) {
          if (self->done_) return;
          self->text_.append(self->buffer_.data(), bytes);
          if (error || self->text_.size() > kMostBytes) return self->finish(true);
          self->read();
        });
  }

  void finish(bool answered) {
    if (std::exchange(done_, true)) return;
    timer_.cancel();
    boost::system::error_code ignored;
    out_.close(ignored);
    end_virsh();
    handler_(answered ? std::string(trim(text_)) : std::string());
  }

  void end_virsh() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

  boost::asio::posix::stream_descriptor out_;
  boost::asio::steady_timer timer_;
  std::function<void(const std::string&)> handler_;
  std::array<char, kMostBytes> buffer_;
  std::string text_;
  pid_t pid_ = -1;
  bool done_ = false;
};

}  // namespace

void ask_domain_state(boost::asio::io_context& io, const std::string& name,
                      std::chrono::milliseconds deadline,
                      std::function<void(const std::string& state)> handler) {
  auto question = std::make_shared<Question>(io, handler);
  if (!question->start(name, deadline))
    boost::asio::post(io, [handler = std::move(handler)] { handler({}); });
}

}  // namespace vmwhy::host
