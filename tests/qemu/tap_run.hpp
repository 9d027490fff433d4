// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// qmp-tap under test: beside a client that does what the test tells it, on a monitor that QEMU logs.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/json.hpp>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/text.hpp"
#include "core/unique_fd.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"
#include "watcher.hpp"

namespace vmwhy::test {

namespace json = boost::json;

/// qmp-tap, listening to `vm` when the constructor returns.
class Tap {
 public:
  Tap(const TempDir& dir, const std::string& target, std::vector<std::string> options = {},
      const std::string& until = "listening to")
      : out_(dir / "tap.out"), child_(start(out_, target, std::move(options))) {
    const auto line = child_.wait_error_line(until);
    if (!line) throw std::runtime_error("qmp-tap does not listen: " + child_.err());
  }

  /// All lines so far that satisfy `wanted`.
  std::vector<json::object> lines(const std::function<bool(const json::object&)>& wanted = {}) const {
    std::vector<json::object> out;
    const std::string text = read_file(out_);
    for (const std::string_view line : split(text, '\n')) {
      if (line.empty() || (line.data() + line.size() == text.data() + text.size())) continue;
      json::error_code error;
      const json::value value = json::parse(line, error);
      EXPECT_FALSE(error) << line.substr(0, 200);
      if (!error && (!wanted || wanted(value.get_object()))) out.push_back(value.get_object());
    }
    return out;
  }
  bool wait_for(const std::function<bool(const json::object&)>& wanted) const {
    return wait_until([&] { return !lines(wanted).empty(); });
  }
  std::string text() const { return read_file(out_); }
  /// Waits for a line that has `part`; the lines are not taken apart.
  bool wait_text(const std::string& part) const {
    return wait_until([&] { return text().find(part) != std::string::npos; });
  }
  ChildProcess& process() { return child_; }
  /// SIGINT; the exit code.
  int finish() {
    child_.signal(SIGINT);
    const auto status = child_.wait();
    return status ? status->code : -1;
  }

 private:
  static ChildProcess start(const std::string& out, const std::string& target,
                            std::vector<std::string> options) {
    std::vector<std::string> args{binary("qmp-tap"), "-n", target};
    args.insert(args.end(), options.begin(), options.end());
    return ChildProcess({.args = std::move(args), .stdout_file = out});
  }

  std::string out_;
  ChildProcess child_;
};

inline std::string kind_of(const json::object& line) {
  return std::string(line.at("kind").as_string());
}

inline bool says(const json::object& line, std::string_view kind, std::string_view part) {
  return kind_of(line) == kind && json::serialize(line).find(part) != std::string::npos;
}

inline std::vector<std::string> logged_monitor(const TempDir& dir, const std::string& id) {
  return {"-chardev",
          "socket,id=" + id + ",path=" + (dir / (id + ".sock")) +
              ",server=on,wait=off,logfile=" + (dir / (id + ".log")),
          "-mon", "chardev=" + id + ",mode=control"};
}

/// A client that writes and reads what the test tells it, and nothing else.
class RawClient {
 public:
  explicit RawClient(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    read_until("\"QMP\"");
    send("{\"execute\":\"qmp_capabilities\"}");
    read_until("\"return\"");
  }
  void send(std::string_view text) const {
    ASSERT_EQ(::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  /// Reads until `text` came; what came before is gone.
  void read_until(std::string_view text) {
    char bytes[65536];
    while (buffer_.find(text) == std::string::npos) {
      const ssize_t got = ::recv(fd_.get(), bytes, sizeof bytes, 0);
      ASSERT_GT(got, 0);
      buffer_.append(bytes, static_cast<std::size_t>(got));
      received_.append(bytes, static_cast<std::size_t>(got));
      // What may be the beginning of the text stays.
      if (buffer_.find(text) == std::string::npos && buffer_.size() > 2 * text.size())
        buffer_.erase(0, buffer_.size() - text.size());
    }
    buffer_.erase(0, buffer_.find(text) + text.size());
  }
  /// All that came.
  const std::string& received() const { return received_; }

 private:
  UniqueFd fd_;
  std::string buffer_, received_;
};

/// What the tap heard of one monitor in one direction.
inline std::vector<json::value> heard_of(const Tap& tap, const std::string& id, std::string_view direction) {
  std::vector<json::value> out;
  for (const json::object& line : tap.lines()) {
    const bool here = line.contains("monitor") &&
                      std::string_view(line.at("monitor").as_string()).ends_with("/" + id + ".sock");
    if (!here) continue;
    EXPECT_NE(kind_of(line), "gap");
    if (line.contains("message") && text_of(line, "direction") == direction)
      out.push_back(line.at("message"));
  }
  return out;
}

inline void expect_equal(const std::vector<json::value>& heard, const std::vector<json::value>& known) {
  ASSERT_EQ(heard.size(), known.size());
  for (std::size_t i = 0; i < known.size(); ++i)
    ASSERT_EQ(json::serialize(heard[i]), json::serialize(known[i])) << i;
}

}  // namespace vmwhy::test
