// SPDX-License-Identifier: BSD-2-Clause
// The real client against servers that behave badly.
#include "qmp/client.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <future>
#include <vector>

#include "tests/support/fake_qmp_server.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::qmp {
namespace {

using test::FakeQmpServer;
using test::Peer;
using namespace std::chrono_literals;

// A client with everything it said.
class Probe {
 public:
  explicit Probe(const std::string& address, const std::function<void(ClientOptions&)>& change = nullptr) {
    ClientOptions options;
    options.address = Address::parse(address).value();
    options.connect_deadline = options.greeting_deadline = options.command_deadline = 60s;
    if (change) change(options);
    Handlers handlers;
    handlers.on_state = [this](LinkState state, const Failure* failure) {
      states.push_back(state);
      if (failure) failures.push_back(*failure);
    };
    handlers.on_event = [this](const Event& event) {
      events.push_back(event);
      if (on_event) on_event();
    };
    handlers.on_traffic = [this](const Traffic& traffic) {
      traffic_kinds.push_back(traffic.kind);
      last_json_bytes = traffic.json.size();
    };
    handlers.on_late_reply = [this](std::string_view command, std::uint64_t sent, std::uint64_t arrival) {
      EXPECT_LE(sent, arrival);
      late.emplace_back(command);
    };
    client = std::make_unique<Client>(io, options, handlers);
    client->start();
  }

  bool run_until(const std::function<bool()>& done) {
    const auto end = test::deadline_in();
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) return false;
      io.restart();
      io.run_one_for(100ms);
    }
    return true;
  }
  bool ready() {
    return run_until([this] { return client->state() == LinkState::ready; });
  }
  bool fails() {
    return run_until([this] { return !failures.empty(); });
  }
  bool fails_with(Errc code) { return fails() && failures.front().code == code; }

  Result<Reply> call(const std::string& command, std::chrono::milliseconds deadline = 60s) {
    std::optional<Result<Reply>> out;
    client->execute(command, {}, deadline, [&](Result<Reply> reply) { out = std::move(reply); });
    EXPECT_FALSE(out.has_value()) << "called from within execute()";
    if (!run_until([&] { return out.has_value(); }))
      return Failure{make_error_code(Errc::system), "the test's own deadline", {}, {}};
    return *out;
  }

  boost::asio::io_context io;
  std::vector<LinkState> states;
  std::vector<Failure> failures;
  std::vector<Event> events;
  std::vector<MessageKind> traffic_kinds;
  std::vector<std::string> late;
  std::size_t last_json_bytes = 0;
  std::function<void()> on_event;
  std::unique_ptr<Client> client;
};

class QmpClient : public testing::Test {
 protected:
  test::TempDir dir;
  std::string path = dir / "qmp.sock";
};

std::optional<boost::json::value> running(std::string_view name, const boost::json::object&) {
  if (name != "query-status") return std::nullopt;
  return boost::json::object{{"running", true}, {"status", "running"}};
}

void healthy(Peer& peer) {
  if (peer.negotiate()) peer.serve(running);
}

TEST_F(QmpClient, NegotiatesAndExecutes) {
  const FakeQmpServer server(path, healthy);
  Probe probe(path);
  ASSERT_TRUE(probe.ready());
  EXPECT_EQ(probe.states, (std::vector<LinkState>{LinkState::connecting, LinkState::waiting_for_greeting,
                                                  LinkState::negotiating, LinkState::ready}));
  EXPECT_EQ(probe.client->version().at("qemu").at("major").as_int64(), 7);
  EXPECT_EQ(probe.client->peer_pid(), static_cast<std::uint32_t>(::getpid()));
  const auto reply = probe.call("query-status");
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->value.at("status").as_string(), "running");
  EXPECT_GE(reply->arrival_ns, reply->sent_ns);
  EXPECT_EQ(probe.traffic_kinds,
            (std::vector<MessageKind>{MessageKind::greeting, MessageKind::command, MessageKind::return_,
                                      MessageKind::command, MessageKind::return_}));
}

TEST_F(QmpClient, SpeaksOverTcpAndAbstractSockets) {
  const FakeQmpServer tcp{FakeQmpServer::Script(healthy)};
  Probe over_tcp(tcp.address());
  ASSERT_TRUE(over_tcp.ready());
  EXPECT_TRUE(over_tcp.call("query-status"));
  const FakeQmpServer abstract("@vmwhy-test-" + std::to_string(::getpid()), healthy);
  Probe over_abstract(abstract.address());
  ASSERT_TRUE(over_abstract.ready());
  EXPECT_TRUE(over_abstract.call("query-status"));
}

TEST_F(QmpClient, ConnectsToAPathLongerThanASocketAddress) {
  const std::string folder = dir / std::string(150, 'd');
  std::filesystem::create_directory(folder);
  const FakeQmpServer server(path, healthy);
  std::filesystem::rename(path, folder + "/qmp.sock");
  Probe probe(folder + "/qmp.sock");
  EXPECT_TRUE(probe.ready());
}

TEST_F(QmpClient, SaysWhyItCannotConnect) {
  EXPECT_TRUE(Probe(dir / "nothing").fails_with(Errc::no_socket));
  dir.write("file", "text");
  Probe file(dir / "file");
  EXPECT_TRUE(file.fails_with(Errc::no_socket));
  EXPECT_NE(file.failures[0].context.find("is not a socket"), std::string::npos);
  { const FakeQmpServer gone(path, healthy); }
  Probe dead(path);
  EXPECT_TRUE(dead.fails_with(Errc::no_socket));
  EXPECT_NE(dead.failures[0].context.find("nobody listens"), std::string::npos);
  EXPECT_TRUE(Probe("127.0.0.1:1").fails_with(Errc::no_socket));
}

TEST_F(QmpClient, CallsAFullBacklogAConnectTimeout) {
  const FakeQmpServer server(path, nullptr, 0);
  std::vector<int> fillers;
  for (;;) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, path.c_str(), path.size() + 1);
    fillers.push_back(fd);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&name), sizeof name) != 0) break;
    ASSERT_LT(fillers.size(), 100u);
  }
  Probe probe(path, [](ClientOptions& options) { options.connect_deadline = 100ms; });
  EXPECT_TRUE(probe.fails_with(Errc::connect_timeout));
  for (const int fd : fillers) ::close(fd);
}

TEST_F(QmpClient, GoesOnWhenTheGreetingComesLate) {
  std::promise<void> greet;
  const FakeQmpServer server(path, [&](Peer& peer) {
    greet.get_future().wait();
    healthy(peer);
  });
  Probe probe(path, [](ClientOptions& options) { options.greeting_deadline = 50ms; });
  EXPECT_TRUE(probe.fails_with(Errc::greeting_missing));
  EXPECT_EQ(probe.client->state(), LinkState::down);
  greet.set_value();
  ASSERT_TRUE(probe.ready());
  EXPECT_TRUE(probe.call("query-status"));
}

TEST_F(QmpClient, TellsABusyMonitorByItsHolder) {
  const FakeQmpServer server(path, healthy);
  Probe holder(path);
  ASSERT_TRUE(holder.ready());
  Probe second(path, [](ClientOptions& options) { options.greeting_deadline = 50ms; });
  EXPECT_TRUE(second.fails_with(Errc::monitor_held));
  EXPECT_NE(second.failures[0].context.find("another client holds the monitor"), std::string::npos)
      << second.failures[0].context;
  holder.client->close();
  EXPECT_TRUE(holder.run_until([&] { return holder.client->state() == LinkState::down; }));
  EXPECT_TRUE(second.ready());
}

TEST_F(QmpClient, TellsAStuckMonitorFromABusyOne) {
  const FakeQmpServer server(path, [](Peer& peer) { peer.stay_silent(); });
  Probe probe(path, [](ClientOptions& options) { options.greeting_deadline = 200ms; });
  EXPECT_TRUE(probe.fails_with(Errc::greeting_missing));
  const std::string& context = probe.failures[0].context;
  EXPECT_EQ(context.find("another client"), std::string::npos) << context;
  EXPECT_NE(context.find("stuck"), std::string::npos) << context;
}

TEST_F(QmpClient, CallsHalfAGreetingMissing) {
  const FakeQmpServer server(path, [](Peer& peer) {
    peer.send("{\"QMP\": {");
    peer.stay_silent();
  });
  Probe probe(path, [](ClientOptions& options) { options.greeting_deadline = 200ms; });
  EXPECT_TRUE(probe.fails_with(Errc::greeting_missing));
}

TEST_F(QmpClient, GoesOnWhenNegotiationIsAnsweredLate) {
  std::promise<void> answer;
  const FakeQmpServer server(path, [&](Peer& peer) {
    peer.send(test::kGreeting);
    const auto line = peer.read_line();
    answer.get_future().wait();
    if (line && peer.reply(*line, boost::json::object())) peer.serve(running);
  });
  Probe probe(path, [](ClientOptions& options) { options.greeting_deadline = 100ms; });
  EXPECT_TRUE(probe.fails_with(Errc::negotiation_timeout));
  answer.set_value();
  EXPECT_TRUE(probe.ready());
}

TEST_F(QmpClient, SaysNotQmpToAHumanMonitor) {
  const FakeQmpServer server(path, [](Peer& peer) {
    peer.send("QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ");
    peer.stay_silent();
  });
  EXPECT_TRUE(Probe(path).fails_with(Errc::not_qmp));
}

TEST_F(QmpClient, TellsALateReplyAfterItsDeadline) {
  std::promise<void> answer;
  const FakeQmpServer server(path, [&](Peer& peer) {
    if (!peer.negotiate()) return;
    const auto line = peer.read_line();
    answer.get_future().wait();
    if (line) peer.reply(*line, boost::json::object());
    peer.serve(running);
  });
  Probe probe(path);
  ASSERT_TRUE(probe.ready());
  EXPECT_EQ(probe.call("query-status", 50ms).error().code, Errc::reply_timeout);
  EXPECT_EQ(probe.client->in_flight(), 1u);
  EXPECT_EQ(probe.client->state(), LinkState::ready);
  answer.set_value();
  EXPECT_TRUE(probe.run_until([&] { return !probe.late.empty(); }));
  EXPECT_EQ(probe.late, std::vector<std::string>{"query-status"});
  EXPECT_TRUE(probe.call("query-status"));
}

TEST_F(QmpClient, PassesErrorRepliesOnWithTheirTextApart) {
  const FakeQmpServer server(path, healthy);
  Probe probe(path);
  ASSERT_TRUE(probe.ready());
  const auto reply = probe.call("query-jobs");
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, Errc::error_reply);
  EXPECT_EQ(reply.error().peer_class, "CommandNotFound");
  EXPECT_EQ(reply.error().context, "query-jobs");
}

TEST_F(QmpClient, RefusesCommandsThatAreNotOnTheAllowList) {
  const FakeQmpServer server(path, healthy);
  Probe probe(path);
  ASSERT_TRUE(probe.ready());
  EXPECT_EQ(probe.call("stop").error().code, Errc::not_allowed);
  EXPECT_EQ(probe.traffic_kinds.back(), MessageKind::return_) << "nothing was sent";
}

TEST_F(QmpClient, FailsCommandsBeforeTheLinkIsReady) {
  const FakeQmpServer server(path, nullptr);
  Probe probe(path);
  EXPECT_EQ(probe.call("query-status").error().code, Errc::disconnected);
}

TEST_F(QmpClient, SurvivesADisconnectAtEveryByte) {
  const std::string stream = std::string(test::kGreeting) + "{\"return\": {}, \"id\": 1}\r\n";
  std::atomic<std::size_t> cut{0};
  const FakeQmpServer server(path, [&](Peer& peer) { peer.send(std::string_view(stream).substr(0, cut)); });
  for (; cut < stream.size(); cut += 3) {
    Probe probe(path);
    ASSERT_TRUE(probe.fails_with(Errc::disconnected)) << cut;
    ASSERT_EQ(probe.states.back(), LinkState::down);
  }
}

TEST_F(QmpClient, FailsWhatIsOutstandingWhenThePeerGoes) {
  const FakeQmpServer server(path, [](Peer& peer) {
    if (peer.negotiate()) peer.read_line();
  });
  Probe probe(path);
  ASSERT_TRUE(probe.ready());
  std::vector<Errc> codes;
  for (int i = 0; i < 12; ++i)  // more than may be in flight
    probe.client->execute("query-status", {}, [&](const Result<Reply>& reply) {
      codes.push_back(static_cast<Errc>(reply.error().code.value()));
    });
  ASSERT_TRUE(probe.run_until([&] { return codes.size() == 12; }));
  EXPECT_EQ(codes, std::vector<Errc>(12, Errc::disconnected));
  EXPECT_TRUE(probe.fails_with(Errc::disconnected));
}

TEST_F(QmpClient, KeepsAtMostEightCommandsInFlight) {
  std::promise<void> answer;
  const FakeQmpServer server(path, [&](Peer& peer) {
    if (!peer.negotiate()) return;
    answer.get_future().wait();
    peer.serve(running);
  });
  Probe probe(path);
  ASSERT_TRUE(probe.ready());
  int done = 0;
  for (int i = 0; i < 20; ++i)
    probe.client->execute("query-status", {}, [&](const Result<Reply>&) { ++done; });
  EXPECT_TRUE(probe.run_until([&] { return probe.client->in_flight() == 8; }));
  probe.io.restart();
  probe.io.poll();
  EXPECT_EQ(probe.client->in_flight(), 8u);
  answer.set_value();
  EXPECT_TRUE(probe.run_until([&] { return done == 20; }));
}

TEST_F(QmpClient, SkipsALineOfAHundredMegabytes) {
  const FakeQmpServer server(path, [](Peer& peer) {
    if (!peer.negotiate()) return;
    const std::string piece(1u << 20, 'x');
    for (int i = 0; i < 100 && peer.send(piece); ++i) {
    }
    peer.send("\r\n");
    peer.event("STOP");
    peer.stay_silent();
  });
  Probe probe(path);
  ASSERT_TRUE(probe.run_until([&] { return !probe.events.empty(); }));
  EXPECT_EQ(probe.events[0].name, "STOP");
  EXPECT_EQ(probe.client->state(), LinkState::ready);
  EXPECT_EQ(std::count(probe.traffic_kinds.begin(), probe.traffic_kinds.end(), MessageKind::unparsable), 1);
}

TEST_F(QmpClient, ReportsInvalidUtf8AndRepliesToNothingAsTraffic) {
  const FakeQmpServer server(path, [](Peer& peer) {
    if (!peer.negotiate()) return;
    peer.send("{\"event\": \"\xff\xff\"}\r\n{\"return\": {}, \"id\": 4711}\r\n");
    peer.event("RESUME", {{"future", 1}});
    peer.serve(running);
  });
  Probe probe(path);
  ASSERT_TRUE(probe.run_until([&] { return !probe.events.empty(); }));
  EXPECT_EQ(probe.events[0].wall_us, 1'700'000'000'123'456);
  EXPECT_GT(probe.events[0].arrival_ns, 0u);
  EXPECT_EQ(probe.events[0].data.at("future").as_int64(), 1);
  EXPECT_TRUE(probe.call("query-status"));
}

TEST_F(QmpClient, TakesAFloodOfEventsWithoutLosingOne) {
  constexpr int kEvents = 50000;
  const FakeQmpServer server(path, [](Peer& peer) {
    if (!peer.negotiate()) return;
    std::string burst;
    for (int i = 0; i < kEvents / 10; ++i)
      burst += "{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 1}}\r\n";
    for (int i = 0; i < 10; ++i) peer.send(burst);
    peer.serve(running);
  });
  Probe probe(path);
  ASSERT_TRUE(probe.ready());
  EXPECT_TRUE(probe.call("query-status"));
  EXPECT_TRUE(probe.run_until([&] { return probe.events.size() == kEvents; }));
}

TEST_F(QmpClient, ReconnectsWhenAskedTo) {
  auto server = std::make_unique<FakeQmpServer>(path, healthy);
  Probe probe(path, [](ClientOptions& options) { options.reconnect = true; });
  ASSERT_TRUE(probe.ready());
  server.reset();
  ASSERT_TRUE(probe.run_until([&] { return probe.failures.size() >= 2; }));
  server = std::make_unique<FakeQmpServer>(path, healthy);
  ASSERT_TRUE(probe.ready());
  EXPECT_TRUE(probe.call("query-status"));
}

TEST_F(QmpClient, MayBeDestroyedFromItsOwnHandler) {
  const FakeQmpServer server(path, [](Peer& peer) {
    if (!peer.negotiate()) return;
    for (int i = 0; i < 10; ++i) peer.event("STOP");
    peer.stay_silent();
  });
  Probe probe(path);
  probe.on_event = [&] { probe.client.reset(); };
  ASSERT_TRUE(probe.run_until([&] { return !probe.client; }));
  const std::size_t events = probe.events.size();
  probe.io.restart();
  probe.io.run_for(50ms);
  EXPECT_EQ(events, 1u);
  EXPECT_EQ(probe.events.size(), 1u);
}

TEST_F(QmpClient, FailsOutstandingCommandsOnClose) {
  const FakeQmpServer server(path, [](Peer& peer) {
    if (peer.negotiate()) peer.stay_silent();
  });
  Probe probe(path);
  ASSERT_TRUE(probe.ready());
  std::optional<Result<Reply>> out;
  probe.client->execute("query-status", {}, [&](Result<Reply> reply) { out = std::move(reply); });
  probe.client->close();
  ASSERT_TRUE(probe.run_until([&] { return out.has_value(); }));
  EXPECT_EQ(out->error().code, Errc::disconnected);
  EXPECT_TRUE(probe.run_until([&] { return probe.client->state() == LinkState::down; }));
}

TEST_F(QmpClient, HoldsManyMonitorsInOneContext) {
  std::vector<std::unique_ptr<FakeQmpServer>> servers;
  boost::asio::io_context io;
  std::vector<std::unique_ptr<Client>> clients;
  int ready = 0;
  for (int i = 0; i < 50; ++i) {
    servers.push_back(std::make_unique<FakeQmpServer>(dir / ("s" + std::to_string(i)), healthy));
    ClientOptions options;
    options.address = Address::parse(servers.back()->address()).value();
    options.greeting_deadline = options.connect_deadline = 60s;
    Handlers handlers;
    handlers.on_state = [&](LinkState state, const Failure*) { ready += state == LinkState::ready; };
    clients.push_back(std::make_unique<Client>(io, options, handlers));
    clients.back()->start();
  }
  const auto end = test::deadline_in();
  while (ready < 50 && std::chrono::steady_clock::now() < end) io.run_one_for(100ms);
  EXPECT_EQ(ready, 50);
}

}  // namespace
}  // namespace vmwhy::qmp
