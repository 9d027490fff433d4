// SPDX-License-Identifier: BSD-2-Clause
// What qmp-tap shows of a conversation is what its client got: whole, or said to be missing. The client's
// side is what counts: QEMU's own log of a chardev repeats bytes where a socket was full.

#include <unistd.h>

#include "tap_run.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/qemu.hpp"

namespace vmwhy::test {
namespace {

std::string command(std::string_view name, int id) {
  return "{\"execute\":\"" + std::string(name) + "\",\"id\":" + std::to_string(id) + "}";
}

std::string id_of(int id) {
  return "\"id\": " + std::to_string(id) + "}";
}

/// Its own: another of these tests may run beside it, and qmp-tap takes every VM of a name.
const std::string kName = "whole" + std::to_string(::getpid());

/// A QEMU with the monitor "m", qmp-tap beside it.
class QmpTapWhole : public ::testing::Test {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(qemu);
    VMWHY_NEEDS(tap);
    QemuOptions options{.name = kName, .boot = "idle.bin"};
    options.args = logged_monitor(dir_, "m");
    vm_.emplace(dir_, options);
  }
  void listen(const std::string& ring_mb = "64") {
    tap_.emplace(dir_, kName, std::vector<std::string>{"--json", "-b", ring_mb});
  }
  void connect() { client_.emplace(dir_ / "m.sock"); }
  /// The tap sees nothing while `act` runs; what it is told of waits.
  void while_stopped(const std::function<void()>& act) {
    tap_->process().signal(SIGSTOP);
    act();
    tap_->process().signal(SIGCONT);
  }
  /// A last command, heard: all before it was taken by the tap.
  void end(int id) {
    client_->send(command("query-name", id));
    client_->read_until(id_of(id));
    ASSERT_TRUE(tap_->wait_text("\"id\": " + std::to_string(id))) << tap_->process().err();
    EXPECT_EQ(tap_->finish(), 0);
  }
  /// The messages that the client got, in order.
  std::vector<json::value> got() const {
    std::vector<json::value> out;
    for (const std::string_view line : split(client_->received(), '\n'))
      if (!trim(line).empty()) out.push_back(json::parse(trim(line)));
    return out;
  }
  void expect_all() { expect_equal(heard_of(*tap_, "m", "out"), got()); }

  const TempDir dir_;
  std::optional<QemuProcess> vm_;
  std::optional<Tap> tap_;
  std::optional<RawClient> client_;
};

TEST_F(QmpTapWhole, LargeReplies) {
  listen();
  connect();
  for (int i = 0; i < 50; ++i) {
    client_->send(command("query-qmp-schema", 100 + i));
    client_->read_until(id_of(100 + i));
  }
  end(999);
  expect_all();
}

TEST_F(QmpTapWhole, RepliesInManyPiecesToAClientThatDoesNotRead) {
  listen();
  connect();
  std::string commands;
  for (int i = 0; i < 12; ++i) commands += command("query-qmp-schema", 100 + i) + "\r\n";
  client_->send(commands);
  ASSERT_TRUE(tap_->wait_text("\"state\": \"blocked\""));
  client_->read_until(id_of(111));
  end(999);
  expect_all();
}

TEST_F(QmpTapWhole, CommandsByteByByteAndManyInOneSend) {
  listen();
  connect();
  for (int i = 0; i < 20; ++i)
    for (const char byte : command("query-status", 100 + i)) client_->send({&byte, 1});
  client_->read_until(id_of(119));
  for (int i = 0; i < 20; ++i) {
    std::string commands;
    for (int j = 0; j < 10; ++j) commands += command("query-status", 1000 + 10 * i + j);
    client_->send(commands);
    client_->read_until(id_of(1009 + 10 * i));
  }
  end(9999);
  expect_all();
  std::vector<json::value> sent;
  for (const json::value& message : heard_of(*tap_, "m", "in")) sent.push_back(message.at("execute"));
  ASSERT_EQ(sent.size(), 1u + 20 + 200 + 1);
  for (std::size_t i = 1; i + 1 < sent.size(); ++i) EXPECT_EQ(sent[i], "query-status") << i;
}

TEST_F(QmpTapWhole, ManySmallMessages) {
  listen();
  connect();
  constexpr int kEach = 50;
  const char* wanted = std::getenv("VMWHY_TAP_MESSAGES");  // For a longer run: two messages a command.
  const int turns = wanted != nullptr ? std::atoi(wanted) / 2 / kEach : 60;
  ASSERT_GT(turns, 0) << "VMWHY_TAP_MESSAGES is no number of messages";
  for (int turn = 0; turn < turns; ++turn) {
    std::string commands;
    for (int i = 0; i < kEach; ++i) commands += command("query-status", 100'000 + turn * kEach + i);
    client_->send(commands);
    client_->read_until(id_of(100'000 + turn * kEach + kEach - 1));
  }
  end(999'999);
  expect_all();
  EXPECT_EQ(heard_of(*tap_, "m", "in").size(), static_cast<std::size_t>(turns) * kEach + 2);
}

// The client connects and goes on while the tap cannot take note of the new socket.
TEST_F(QmpTapWhole, TheFirstWordsHoweverLateTheTapLooks) {
  listen();
  while_stopped([&] {
    connect();
    for (int i = 0; i < 6; ++i) client_->send(command("query-qmp-schema", 100 + i));
    client_->read_until(id_of(105));
  });
  end(999);
  expect_all();
}

// More than the ring holds: what is shown was said, and what was lost is told, to the byte.
TEST_F(QmpTapWhole, WhatAFullRingLostIsToldAndNothingWrongIsShown) {
  listen("1");
  connect();
  client_->send(command("query-status", 50));
  client_->read_until(id_of(50));
  ASSERT_TRUE(tap_->wait_text("\"id\": 50"));
  while_stopped([&] {
    for (int i = 0; i < 20; ++i) {
      client_->send(command("query-qmp-schema", 100 + i));
      client_->read_until(id_of(100 + i));
    }
  });
  // Until the tap has caught up, more may be lost.
  for (int id = 500;; ++id) {
    ASSERT_LT(id, 900);
    client_->send(command("query-version", id));
    client_->read_until(id_of(id));
    const auto heard = [&] {
      return tap_->text().find("\"id\": " + std::to_string(id)) != std::string::npos;
    };
    if (wait_until(deadline_in(1s), heard)) break;
  }
  end(999);
  std::vector<std::string_view> known;
  const std::string& received = client_->received();
  for (const std::string_view line : split(received, '\n'))
    if (!trim(line).empty()) known.push_back(line);
  std::size_t at = 0;
  std::uint64_t lost = 0, told = 0;
  for (const json::object& line : tap_->lines()) {
    if (text_of(line, "direction") != "out") continue;
    if (kind_of(line) == "gap") told += line.at("lost_bytes").to_number<std::uint64_t>();
    if (!line.contains("message")) continue;
    for (; at < known.size() && json::parse(trim(known[at])) != line.at("message"); ++at)
      lost += known[at].size() + 1;
    ASSERT_LT(at, known.size()) << "never said: " << json::serialize(line).substr(0, 300);
    ++at;
  }
  EXPECT_GT(lost, 1u << 20);
  EXPECT_EQ(told, lost);
  const std::string summary = tap_->process().err();
  EXPECT_NE(summary.find("were not heard whole"), std::string::npos) << summary;
}

}  // namespace
}  // namespace vmwhy::test
