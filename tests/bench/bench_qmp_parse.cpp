// SPDX-License-Identifier: BSD-2-Clause
// How fast QMP messages are read, beside Python's json module on the same bytes, which QMP scripts commonly
// use; and what 500 watched monitors cost.
#include <sys/resource.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "qmp/client.hpp"
#include "qmp/proto/session.hpp"
#include "tests/bench/bench.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/fake_qmp_server.hpp"
#include "tests/support/temp_dir.hpp"

namespace vmwhy {
namespace {

using Clock = std::chrono::steady_clock;

// What a monitor sends while a VM is watched: mostly replies to query-status, some events, now and then a
// block graph.
std::string sample_stream() {
  std::string node =
      R"({"iops_rd": 0, "detect_zeroes": "off", "image": {"virtual-size": 67108864, "filename": "/var/lib/vms/d.raw", )"
      R"("format": "raw", "actual-size": 4096, "dirty-flag": false}, "iops_wr": 0, "ro": false, "node-name": "disk0", )"
      R"("backing_file_depth": 0, "drv": "file", "iops": 0, "bps_wr": 0, "write_threshold": 0, "encrypted": false, )"
      R"("bps": 0, "bps_rd": 0, "cache": {"no-flush": false, "direct": true, "writeback": true}, "file": "/var/lib/vms/d.raw"})";
  std::string graph = "{\"return\": [";
  for (int i = 0; i < 8; ++i) graph += (i ? ", " : "") + node;
  graph += "]}\r\n";
  std::string out;
  for (int i = 0; i < 2000; ++i) {
    for (int j = 0; j < 5; ++j)
      out += R"({"return": {"status": "running", "singlestep": false, "running": true}, "id": 7})"
             "\r\n";
    out +=
        R"({"timestamp": {"seconds": 1795986031, "microseconds": 215870}, "event": "BLOCK_IO_ERROR", "data": {"device": "", )"
        R"("nospace": true, "node-name": "disk0", "reason": "No space left on device", "operation": "write", "action": "stop"}})"
        "\r\n";
    if (i % 4 == 0) out += graph;
  }
  return out;
}

double parse_once(const std::string& stream) {
  qmp::proto::Session session({});
  std::string_view head = test::kGreeting;
  while (session.next(head, 0, 0)) {
  }
  std::string_view ok = "{\"return\": {}, \"id\": 1}\r\n";
  while (session.next(ok, 0, 0)) {
  }
  const auto begin = Clock::now();
  std::size_t messages = 0;
  for (std::string_view rest = stream; !rest.empty();) {
    std::string_view part = rest.substr(0, 65536);
    rest.remove_prefix(part.size());
    while (session.next(part, 0, 0)) ++messages;
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return messages == 0 ? 0 : static_cast<double>(stream.size()) / seconds / 1e6;
}

double python_rate(const std::string& file) {
  const std::string script =
      "import json,sys,time\n"
      "data=open(sys.argv[1],'rb').read()\n"
      "best=0\n"
      "for _ in range(3):\n"
      "  t=time.perf_counter()\n"
      "  for line in data.split(b'\\r\\n'):\n"
      "    if line: json.loads(line)\n"
      "  best=max(best,len(data)/(time.perf_counter()-t)/1e6)\n"
      "print(best)\n";
  const test::Output output = test::run_program({"python3", "-c", script, file});
  return output.status.code == 0 ? std::atof(output.out.c_str()) : 0;
}

double resident_mb() {
  std::ifstream statm("/proc/self/statm");
  double size = 0;
  double resident = 0;
  statm >> size >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1e6;
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

VMWHY_BENCH(qmp_parse) {
  const std::string stream = sample_stream();
  double best = 0;
  for (int i = 0; i < 5; ++i) best = std::max(best, parse_once(stream));
  const test::TempDir dir;
  const double python = python_rate(dir.write("stream", stream));
  bench::Figure figure{.figure = "QMP messages read", .value = best, .unit = "MB/s"};
  if (python > 0) {
    figure.peer = "python3 json";
    figure.peer_value = python;
  }
  report.add(figure);
}

// The clients alone: the servers' threads live in the same process, so memory is counted from after they were
// made, and CPU time is that of the clients' thread.
VMWHY_BENCH(qmp_clients) {
  constexpr int kClients = 500;
  const test::TempDir dir;
  std::vector<std::unique_ptr<test::FakeQmpServer>> servers;
  for (int i = 0; i < kClients; ++i)
    servers.push_back(
        std::make_unique<test::FakeQmpServer>(dir / ("s" + std::to_string(i)), [](test::Peer& peer) {
          if (peer.negotiate()) peer.stay_silent();
        }));
  const double before = resident_mb();
  boost::asio::io_context io;
  std::vector<std::unique_ptr<qmp::Client>> clients;
  int ready = 0;
  for (const auto& server : servers) {
    qmp::ClientOptions options;
    options.address = qmp::Address::parse(server->address()).value();
    options.connect_deadline = options.greeting_deadline = std::chrono::seconds(60);
    qmp::Handlers handlers;
    handlers.on_state = [&ready](qmp::LinkState state, const qmp::Failure*) {
      ready += state == qmp::LinkState::ready;
    };
    clients.push_back(std::make_unique<qmp::Client>(io, options, handlers));
    clients.back()->start();
  }
  const auto end = Clock::now() + std::chrono::seconds(60);
  while (ready < kClients && Clock::now() < end) io.run_one_for(std::chrono::milliseconds(100));
  if (ready < kClients) return;
  report.add({.figure = "memory of 500 connected monitors",
              .value = resident_mb() - before,
              .unit = "MB",
              .goal = 100});
  const double cpu = cpu_seconds();
  const auto begin = Clock::now();
  io.run_for(std::chrono::seconds(3));
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  report.add({.figure = "CPU of 500 idle monitors",
              .value = 100 * (cpu_seconds() - cpu) / seconds,
              .unit = "% of a core",
              .goal = 1});
}

}  // namespace vmwhy
