// SPDX-License-Identifier: BSD-2-Clause
// The helper process of StorageProbe. It never looks at storage itself: each request has a child of its own.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "clock/clock.hpp"
#include "core/unique_fd.hpp"
#include "host/node_file.hpp"
#include "host/storage_probe.hpp"
#include "host/storage_wire.hpp"
#include "trace/record.hpp"

namespace vmwhy::host::wire {
namespace {

struct Child {
  pid_t pid = 0;
  UniqueFd answer;
  Request request{};
  std::uint64_t began_ns = 0;
  bool stuck = false;  ///< Its deadline has passed and was reported.
};

void put_text(Answer& answer, std::string_view text) {
  answer.text_size = static_cast<std::uint32_t>(std::min(text.size(), kTextBytes));
  std::memcpy(answer.text, text.data(), answer.text_size);
}

[[noreturn]] void look(const Request& request, int out) {
  static Answer answer;
  answer.id = request.id;
  answer.kind = request.kind;
  answer.reached = 1;
  if (request.kind == Kind::node) {
    const NodeFacts facts = look_at_node(request.pid, request.path);
    answer.file = facts.file;
    put_text(answer, trace::join_text({facts.mount_point, facts.fs_type, facts.mount_source, facts.devices,
                                       facts.quotas}));
  } else {
    const Tail tail = read_tail(request.pid, request.path, kTextBytes / 2);
    answer.tail_offset = tail.offset;
    answer.tail_error = tail.error;
    put_text(answer, tail.text);
  }
  // Whole messages only: the reader sees all of it or nothing.
  const ssize_t sent = ::send(out, &answer, sizeof(answer), MSG_NOSIGNAL);
  ::_exit(sent == static_cast<ssize_t>(sizeof(answer)) ? 0 : 1);
}

class Helper {
 public:
  explicit Helper(int socket) : socket_(socket) {}

  [[noreturn]] void run() {
    while (true) {
      poll_once();
      reap();
    }
  }

 private:
  void poll_once() {
    std::vector<pollfd> fds{{socket_, POLLIN, 0}};
    for (const Child& child : children_) fds.push_back({child.answer.get(), POLLIN, 0});
    if (::poll(fds.data(), fds.size(), timeout_ms()) < 0 && errno != EINTR) ::_exit(1);
    for (std::size_t i = fds.size() - 1; i >= 1; --i)
      if (fds[i].revents != 0) collect(i - 1);
    give_up_on_late();
    if (fds[0].revents != 0) accept_request();
  }

  int timeout_ms() const {
    std::uint64_t next = UINT64_MAX;
    for (const Child& child : children_)
      if (!child.stuck) next = std::min(next, due(child));
    if (next == UINT64_MAX) return children_.empty() && dead_.empty() ? -1 : 1000;
    const std::uint64_t now = clock::now_ns();
    return next <= now ? 0 : static_cast<int>((next - now) / 1'000'000 + 1);
  }

  static std::uint64_t due(const Child& child) {
    return child.began_ns + std::uint64_t{child.request.deadline_ms} * 1'000'000;
  }

  void accept_request() {
    Request request;
    const ssize_t n = ::recv(socket_, &request, sizeof(request), 0);
    if (n < 0 && errno == EINTR) return;
    if (n <= 0) stop();
    if (n != static_cast<ssize_t>(sizeof(request))) return;
    request.path[sizeof(request.path) - 1] = '\0';
    if (refuse(request)) return answer_unreached(request, 0);
    start(request);
  }

  /// A file whose last child still hangs would only hang another one.
  bool refuse(const Request& request) const {
    std::size_t stuck = 0;
    for (const Child& child : children_) {
      if (!child.stuck) continue;
      ++stuck;
      if (child.request.pid == request.pid && std::strcmp(child.request.path, request.path) == 0) return true;
    }
    return stuck >= StorageProbe::kMaxStuck;
  }

  void start(const Request& request) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
      return answer_unreached(request, 0);
    UniqueFd ours(pair[0]), theirs(pair[1]);
    const pid_t pid = ::fork();
    if (pid < 0) return answer_unreached(request, 0);
    if (pid == 0) {
      ::close(socket_);
      look(request, theirs.get());
    }
    children_.push_back({pid, std::move(ours), request, clock::now_ns(), false});
  }

  void collect(std::size_t i) {
    Child child = std::move(children_[i]);
    children_.erase(children_.begin() + static_cast<std::ptrdiff_t>(i));
    static Answer answer;
    const ssize_t n = ::recv(child.answer.get(), &answer, sizeof(answer), 0);
    dead_.push_back(child.pid);
    if (child.stuck) return;  // It came loose after all; nobody waits for it any more.
    const std::uint64_t waited = clock::now_ns() - child.began_ns;
    if (n != static_cast<ssize_t>(sizeof(answer))) return answer_unreached(child.request, waited);
    answer.file.waited_ns = waited;
    send(answer);
  }

  void give_up_on_late() {
    const std::uint64_t now = clock::now_ns();
    for (Child& child : children_) {
      if (child.stuck || due(child) > now) continue;
      child.stuck = true;
      ::kill(child.pid, SIGKILL);  // Ends it as soon as the file system lets go.
      answer_unreached(child.request, now - child.began_ns);
    }
  }

  void answer_unreached(const Request& request, std::uint64_t waited_ns) {
    static Answer answer;
    answer = {};
    answer.id = request.id;
    answer.kind = request.kind;
    answer.file.flags = trace::kNodeUnreachable;
    answer.file.waited_ns = waited_ns;
    send(answer);
  }

  void send(const Answer& answer) {
    if (::send(socket_, &answer, sizeof(answer), MSG_NOSIGNAL) < 0 && errno == EPIPE) stop();
  }

  void reap() {
    std::erase_if(dead_, [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; });
  }

  [[noreturn]] void stop() {
    for (const Child& child : children_) ::kill(child.pid, SIGKILL);
    ::_exit(0);
  }

  int socket_;
  std::vector<Child> children_;
  std::vector<pid_t> dead_;
};

}  // namespace

void serve(int socket) {
  ::prctl(PR_SET_NAME, "vmwhy-reach");
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  // Ctrl-C goes to the whole group: the tool still wants answers while it ends.
  ::signal(SIGINT, SIG_IGN);
  ::signal(SIGTERM, SIG_DFL);
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // Holds nothing of the tool's but this socket and stderr.
  if (socket != 3) {
    ::dup3(socket, 3, O_CLOEXEC);
    socket = 3;
  }
  ::syscall(SYS_close_range, 4u, ~0u, 0u);
  ::close(0);
  ::close(1);
  Helper(socket).run();
}

}  // namespace vmwhy::host::wire
