// SPDX-License-Identifier: BSD-2-Clause
// What vm-iowatch costs fio's requests, beside what others use to look at storage, in the same run; and how
// long it takes to tell of a failure and of a hang.

#include <bpf/bpf.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bench.hpp"
#include "clock/clock.hpp"
#include "core/unique_fd.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/fuse_disk.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::bench {
namespace {

using namespace std::chrono_literals;
using test::ChildProcess;

/// The first is for BPF's own statistics, which themselves take time.
constexpr int kRounds = 5, kFailures = 200, kHangs = 30;
/// fio works for so long before it counts: whatever follows it by its process id is there by then.
constexpr auto kRamp = 4s;
constexpr int kSeconds = 4;

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<std::size_t>(q * static_cast<double>(values.size())))];
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// ---- fio

struct Load {
  std::string name;
  std::string file;
  std::string engine;  ///< Lines of fio's job.
};

/// Of one run of fio, by windows of a hundredth of a second.
struct Rate {
  std::vector<double> iops;
  double p99_us = 0;
  double bpf_ns = 0;  ///< Run time of the tool's programs for a request, where that was asked for.
};

/// fio, taken for a QEMU whose disk is `load.file` by everybody who looks at its executable's name and its
/// command line: fio reads "-drive" as its job's description, and "file=…" as the path of its job.
class Fio {
 public:
  Fio(const test::TempDir& dir, const Load& load)
      : result_(dir / "fio.json"),
        windows_(dir / "fio"),
        began_(std::chrono::steady_clock::now()),
        child_(start(dir, load)) {}

  int pid() const { return child_.pid(); }
  long threads() const {
    std::error_code error;
    const std::filesystem::directory_iterator tasks("/proc/" + std::to_string(pid()) + "/task", error);
    return error ? 0 : std::distance(begin(tasks), end(tasks));
  }
  /// Whether it has not begun to count.
  bool ramps() const { return std::chrono::steady_clock::now() < began_ + kRamp - 500ms; }

  std::optional<Rate> result() {
    const auto status = child_.wait();
    if (!status || status->code != 0) throw std::runtime_error("fio: " + child_.err());
    const auto read = boost::json::parse(test::read_file(result_)).at_pointer("/jobs/0/read");
    Rate rate;
    rate.p99_us = read.at_pointer("/clat_ns/percentile/99.000000").to_number<double>() / 1000;
    std::istringstream lines(test::read_file(windows_ + "_iops.1.log"));
    for (std::string line; std::getline(lines, line);)
      if (const auto comma = line.find(','); comma != line.npos)
        rate.iops.push_back(std::strtod(line.c_str() + comma + 1, nullptr));
    return rate;
  }

 private:
  ChildProcess::Options start(const test::TempDir& dir, const Load& load) {
    const std::string program = dir / "qemu-system-fio", job = "file=" + load.file;
    if (!std::filesystem::exists(program)) std::filesystem::copy_file(test::program_path("fio"), program);
    std::filesystem::create_directories((dir.path() / job).parent_path());
    dir.write(job,
              "[load]\nfilename=" + load.file +
                  "\nrw=randread\nbs=4k\nsize=48M\nthread\ntime_based\nlog_avg_msec=10\nwrite_iops_log=" +
                  windows_ + "\nramp_time=" + std::to_string(kRamp.count()) +
                  "\nruntime=" + std::to_string(kSeconds) + "\n" + load.engine);
    return {.args = {program, "--output-format=json", "--output=" + result_, "--description", "-drive", job},
            .folder = dir.path()};
  }

  std::string result_, windows_;
  std::chrono::steady_clock::time_point began_;
  ChildProcess child_;
};

// ---- BPF

std::set<std::uint32_t> bpf_programs() {
  std::set<std::uint32_t> out;
  for (std::uint32_t id = 0; bpf_prog_get_next_id(id, &id) == 0;) out.insert(id);
  return out;
}

/// Nanoseconds that a run of each of these programs takes on average, added up, of those that run at each
/// request: the others are for failures.
double ns_of_a_request(const std::set<std::uint32_t>& but) {
  constexpr std::uint64_t kMany = 50000;
  double sum = 0;
  for (const std::uint32_t id : bpf_programs()) {
    const UniqueFd fd(but.contains(id) ? -1 : bpf_prog_get_fd_by_id(id));
    bpf_prog_info info{};
    std::uint32_t size = sizeof info;
    if (!fd || bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0 || info.run_cnt < kMany) continue;
    sum += static_cast<double>(info.run_time_ns) / static_cast<double>(info.run_cnt);
  }
  return sum;
}

// ---- who watches

struct Tool {
  std::string name;
  /// Its command, of the process that is fio. Empty: none.
  std::function<std::vector<std::string>(int fio)> command;
  std::string ready;  ///< Part of a line on stderr or stdout when it has begun; empty: it does not say.
  bool ends_with_fio = false;
  std::optional<double> goal;                      ///< Percent by which requests become slower.
  std::string missing;                             ///< Why there are no figures of it.
  std::map<std::string, std::vector<Rate>> rates;  ///< By load.
  std::map<std::string, double> bpf_ns;            ///< Likewise: run time of its programs for a request.
};

/// Nothing: fio counted before the tool was there. @throws with why the tool does not work here.
std::optional<Rate> measure(const test::TempDir& dir, const Tool& tool, const Load& load, bool bpf) {
  const auto others = bpf_programs();
  const UniqueFd stats(bpf ? bpf_enable_stats(BPF_STATS_RUN_TIME) : -1);
  Fio fio(dir, load);
  if (!tool.command) return fio.result();
  // What follows threads must find the one that does the work.
  test::wait_until([&] { return fio.threads() >= 3; });
  const std::string out = dir / "tool.out", err = dir / "tool.err";
  std::filesystem::remove(out);
  std::filesystem::remove(err);
  ChildProcess watcher({.args = tool.command(fio.pid()), .stdout_file = out, .stderr_file = err});
  const auto ready = [&] {
    return test::read_file(out).find(tool.ready) != std::string::npos ||
           test::read_file(err).find(tool.ready) != std::string::npos;
  };
  if (tool.ready.empty())
    std::this_thread::sleep_for(1s);
  else
    test::wait_until([&] { return ready() || !watcher.running(); });
  if (!watcher.running() || !ready()) {
    std::string words = test::read_file(err);
    std::replace(words.begin(), words.end(), '\n', ' ');
    throw std::runtime_error("it does not start: " + words.substr(0, 160));
  }
  const bool in_time = fio.ramps();
  double ns = 0;
  if (bpf) {
    std::this_thread::sleep_for(3s);
    ns = ns_of_a_request(others);
  }
  auto rate = fio.result();
  rate->bpf_ns = ns;
  if (!tool.ends_with_fio && !watcher.running()) throw std::runtime_error("it ended before its time");
  watcher.signal(SIGINT);
  watcher.wait();
  return in_time ? rate : std::nullopt;
}

std::vector<std::string> bpftrace(const std::string& program) {
  return {"bpftrace", "-q", "-e", "BEGIN { printf(\"begun\\n\"); }" + program};
}

/// What biolatency and biosnoop of bcc and bpftrace do, at tracepoints: those of the distribution attach to
/// functions and need the kernel's headers.
constexpr const char* kBegan =
    "tracepoint:block:block_rq_issue { @began[args->dev, args->sector] = nsecs; }"
    "tracepoint:block:block_rq_complete /@began[args->dev, args->sector]/ {";
constexpr const char* kEnded = "delete(@began[args->dev, args->sector]); } END { clear(@began); }";

std::vector<Tool> all_tools(int other_vm) {
  const auto of_fio = [](std::vector<std::string> more) {
    return [more](int fio) {
      std::vector<std::string> args{test::binary("vm-iowatch"), "--json", "-p", std::to_string(fio)};
      args.insert(args.end(), more.begin(), more.end());
      return args;
    };
  };
  const auto fixed = [](std::vector<std::string> args) { return [args](int) { return args; }; };
  const std::string begin = kBegan, end = kEnded;
  return {
      {"", {}, ""},
      {"vm-iowatch of this VM", of_fio({}), "watching", true, 1},
      {"vm-iowatch --syscall-probes of this VM", of_fio({"--syscall-probes"}), "watching", true},
      {"vm-iowatch of another VM",
       fixed({test::binary("vm-iowatch"), "--json", "-p", std::to_string(other_vm)}), "watching", false, 0},
      {"biolatency (bcc)", fixed({"biolatency-bpfcc", "600", "1"}), "Tracing"},
      {"biosnoop (bcc)", fixed({"biosnoop-bpfcc"}), "TIME(s)"},
      {"biolatency (by bpftrace)",
       fixed(bpftrace(begin + "@us = hist((nsecs - @began[args->dev, args->sector]) / 1000);" + end)),
       "begun"},
      {"biosnoop (by bpftrace)",
       fixed(bpftrace(begin +
                      "printf(\"%u %d %s %s %d %u %u\\n\", elapsed / 1000, pid, comm, args->rwbs, args->dev, "
                      "args->sector, (nsecs - @began[args->dev, args->sector]) / 1000);" +
                      end)),
       "begun"},
      {"perf trace",
       [](int fio) {
         return std::vector<std::string>{"perf", "trace", "-o", "/dev/null", "-p", std::to_string(fio)};
       },
       "", true},
  };
}

/// The hundredth of a second that is faster than 49 of 50: what else the machine does makes requests slower,
/// never quicker.
double best_iops(const std::vector<Rate>& rates) {
  std::vector<double> windows;
  for (const Rate& rate : rates) windows.insert(windows.end(), rate.iops.begin(), rate.iops.end());
  return quantile(windows, 0.98);
}

double best_p99(const std::vector<Rate>& rates) {
  return std::ranges::min(rates, {}, &Rate::p99_us).p99_us;
}

void tell(Report& report, const std::vector<Tool>& tools, const Load& load) {
  // Every other round of those without a tool: how far the figures below can be trusted.
  std::vector<Rate> halves[2];
  const std::vector<Rate>& alone = tools[0].rates.at(load.name);
  for (std::size_t i = 0; i < alone.size(); ++i) halves[i % 2].push_back(alone[i]);
  const double iops = best_iops(alone), p99 = best_p99(alone);
  report.add({.figure = load.name + ", without a tool", .value = iops, .unit = "IOPS"});
  report.add({.figure = load.name + ", without a tool: p99", .value = p99, .unit = "us"});
  report.add({.figure = load.name + ", without a tool, every other round to the rest: slower by",
              .value = 100 * (1 - best_iops(halves[1]) / best_iops(halves[0])),
              .unit = "%"});
  for (std::size_t i = 1; i < tools.size(); ++i) {
    const Tool& tool = tools[i];
    const auto at = tool.rates.find(load.name);
    if (at == tool.rates.end()) {
      report.skip(load.name + " with " + tool.name + ": " +
                  (tool.missing.empty() ? "it was never there before fio began to count" : tool.missing));
      continue;
    }
    report.add({.figure = load.name + ", with " + tool.name + ": slower by",
                .value = 100 * (1 - best_iops(at->second) / iops),
                .unit = "%",
                .goal = tool.goal});
    if (const auto bpf = tool.bpf_ns.find(load.name); bpf != tool.bpf_ns.end() && bpf->second != 0)
      report.add({.figure = load.name + ", with " + tool.name + ": BPF run time of a request",
                  .value = bpf->second,
                  .unit = "ns"});
    report.add({.figure = load.name + ", with " + tool.name + ": p99 longer by",
                .value = 100 * (best_p99(at->second) / p99 - 1),
                .unit = "%"});
  }
}

// ---- detection

/// A member of a line of vm-iowatch --json.
std::uint64_t number_in(const std::string& line, const char* key) {
  return boost::json::parse(line).at(key).to_number<std::uint64_t>();
}

std::vector<std::string> iowatch(const test::QemuProcess& vm, const std::vector<std::string>& more) {
  std::vector<std::string> args{test::binary("vm-iowatch"), "--json", "-i", "60s", "-s", vm.monitor()};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

/// Milliseconds from the threshold to the line, of hangs that a FUSE server makes and ends.
std::vector<double> hang_delays(const std::vector<std::string>& options, const std::string& layer) {
  constexpr std::uint64_t kThreshold = 300'000'000;
  const test::TempDir dir;
  test::FuseDisk fuse(dir.path() / "fuse");
  test::QemuProcess vm(dir, {.boot = "writer.bin", .args = test::disk(fuse.file())});
  std::vector<std::string> args = iowatch(vm, {"--hang", "300ms"});
  args.insert(args.end(), options.begin(), options.end());
  ChildProcess watch(args);
  if (!watch.wait_error_line("watching")) throw std::runtime_error("vm-iowatch: " + watch.err());
  vm.cont();
  std::vector<double> delays;
  for (int i = 0; i < kHangs; ++i) {
    const std::size_t written = vm.serial().size();
    if (!test::wait_until([&] { return vm.serial().size() > written + 3; }))
      throw std::runtime_error("the guest does not write");
    fuse.hang_data();
    if (!test::wait_until([&] { return fuse.hung(); })) throw std::runtime_error("nothing hangs");
    const std::uint64_t began = clock::now_ns();
    const auto line = watch.wait_line([&](std::string_view text) {
      return text.find("\"kind\":\"hang\"") != text.npos && text.find(layer) != text.npos;
    });
    const std::uint64_t now = clock::now_ns();
    if (!line) throw std::runtime_error("no hang was told: " + watch.out());
    delays.push_back(static_cast<double>(static_cast<std::int64_t>(now - began - kThreshold)) / 1e6);
    fuse.let_go();
  }
  return delays;
}

}  // namespace

VMWHY_BENCH(io_peers) {
  if (report.needs("qemu") || report.needs("bpf") || report.needs("loop") || report.needs("mount")) return;
  if (test::program_path("fio").empty()) return report.skip("needs fio: no such program");
  const test::TempDir dir;
  std::unique_ptr<test::Mount> tracefs;
  if (!std::filesystem::exists("/sys/kernel/tracing/events"))
    tracefs = std::make_unique<test::Mount>("tracefs", "/sys/kernel/tracing", "tracefs");
  const test::Mount memory("tmpfs", dir.path() / "memory", "tmpfs", "size=160m");
  const std::string raw = test::sparse_file(memory / "disk.raw", 48 << 20);
  const test::LoopDevice loop(test::sparse_file(memory / "backing", 48 << 20));
  const bool null_blk = std::filesystem::exists("/dev/nullb0");
  test::QemuProcess other(dir, {.boot = "idle.bin", .args = test::disk(dir.sparse("other.raw", 64 << 20))});
  std::vector<Load> loads{
      {"pread of a raw file", raw, "ioengine=psync\n"},
      {"Linux AIO, 16 at a time, of a loop device", loop.path(), "ioengine=libaio\niodepth=16\ndirect=1\n"},
  };
  if (null_blk)
    loads.push_back(
        {"Linux AIO, 16 at a time, of null_blk", "/dev/nullb0", "ioengine=libaio\niodepth=16\ndirect=1\n"});
  else
    report.skip("null_blk: this kernel has no /dev/nullb0");
  auto tools = all_tools(other.pid());
  for (int round = 0; round < kRounds; ++round)
    for (const Load& load : loads)
      for (Tool& tool : tools) {
        if (!tool.missing.empty()) continue;
        try {
          const bool bpf = round == 0;
          const auto rate = measure(dir, tool, load, bpf);
          if (bpf && rate) tool.bpf_ns[load.name] = rate->bpf_ns;
          if (!bpf && rate) tool.rates[load.name].push_back(*rate);
        } catch (const std::exception& error) {
          if (!tool.command) throw;
          tool.missing = error.what();
          tool.rates.clear();
        }
      }
  for (const Load& load : loads) tell(report, tools, load);
}

VMWHY_BENCH(io_error_delay) {
  if (report.needs("qemu") || report.needs("bpf") || report.needs("fuse")) return;
  const test::TempDir dir;
  test::FuseDisk fuse(dir.path() / "fuse");
  fuse.fail_writes(EIO);
  test::QemuProcess vm(
      dir, {.boot = "writer.bin",
            .args = {"-blockdev", "driver=file,node-name=disk0,locking=off,filename=" + fuse.file(),
                     "-device", "virtio-blk-pci,drive=disk0,werror=report"}});
  ChildProcess watch(iowatch(vm, {"--syscall-probes"}));
  if (!watch.wait_error_line("watching")) throw std::runtime_error("vm-iowatch: " + watch.err());
  vm.cont();
  std::vector<double> delays;
  for (int i = 0; i < kFailures; ++i) {
    const auto line = watch.wait_line("\"layer\":\"syscall\",\"path\"");
    const std::uint64_t now = clock::now_ns();
    if (!line) throw std::runtime_error("no failure was told: " + watch.err());
    delays.push_back(static_cast<double>(now - number_in(*line, "time_ns")) / 1e6);
  }
  report.add({.figure = "from a failed write of QEMU to the line that tells of it, median",
              .value = median(delays),
              .unit = "ms"});
  report.add({.figure = "the same, p99 of " + std::to_string(kFailures),
              .value = quantile(delays, 0.99),
              .unit = "ms",
              .goal = 10});
}

VMWHY_BENCH(io_hang_delay) {
  if (report.needs("qemu") || report.needs("bpf") || report.needs("fuse")) return;
  const auto add = [&](const std::string& how, const std::vector<double>& delays) {
    report.add({.figure = "from the threshold of a hang to the line that tells of it, " + how + ": median",
                .value = median(delays),
                .unit = "ms"});
    report.add({.figure = "the same, the longest of " + std::to_string(delays.size()),
                .value = quantile(delays, 1),
                .unit = "ms",
                .goal = 100});
  };
  add("by the system call", hang_delays({"--syscall-probes"}, "\"layer\":\"syscall\""));
  add("by QEMU's threads alone", hang_delays({}, "\"layer\":\"fs\""));
}

}  // namespace vmwhy::bench
