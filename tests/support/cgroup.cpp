// SPDX-License-Identifier: BSD-2-Clause
#include "cgroup.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "core/unique_fd.hpp"
#include "temp_dir.hpp"
#include "wait.hpp"

namespace vmwhy::test {

namespace {

constexpr std::string_view kPrefix = "vmwhy-test-";

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

void put(const std::string& path, std::string_view value) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) fail(errno, "open " + path);
  if (::write(fd.get(), value.data(), value.size()) < 0) fail(errno, "write " + path);
}

// Where the hierarchy is mounted; empty: nowhere.
std::string hierarchy(Freezer::Version version, std::string_view controller = "freezer") {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream head(line.substr(0, dash)), tail(line.substr(dash + 3));
    std::string skip, mount_point, type, source, options;
    head >> skip >> skip >> skip >> skip >> mount_point;
    tail >> type >> source >> options;
    if (version == Freezer::Version::v2 && type == "cgroup2") return mount_point;
    if (version == Freezer::Version::v1 && type == "cgroup" &&
        ("," + options + ",").find("," + std::string(controller) + ",") != std::string::npos)
      return mount_point;
  }
  return {};
}

void thaw_and_remove(Freezer::Version version, const std::string& parent, const std::string& path) {
  const bool v1 = version == Freezer::Version::v1;
  try {
    put(path + (v1 ? "/freezer.state" : "/cgroup.freeze"), v1 ? "THAWED" : "0");
    std::istringstream members(read_file(path + "/cgroup.procs"));
    for (std::string pid; members >> pid;) put(parent + "/cgroup.procs", pid);
  } catch (const std::system_error&) {
    // The group may be gone, or a member may just have ended.
  }
  wait_until(deadline_in(5s), [&] { return ::rmdir(path.c_str()) == 0 || errno == ENOENT; });
}

// Groups of test processes that were killed.
void sweep(Freezer::Version version, const std::string& parent) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(parent, ignored)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix)) continue;
    const int owner = std::atoi(name.c_str() + kPrefix.size());
    if (owner > 0 && ::kill(owner, 0) != 0 && errno == ESRCH) thaw_and_remove(version, parent, entry.path());
  }
}

}  // namespace

Freezer::Freezer(Version version) : version_(version), parent_(hierarchy(version)) {
  if (parent_.empty()) fail(ENOENT, version == Version::v1 ? "no freezer hierarchy" : "no cgroup2 hierarchy");
  sweep(version_, parent_);
  static std::atomic<int> count = 0;
  path_ = parent_ + "/" + std::string(kPrefix) + std::to_string(::getpid()) + "-" + std::to_string(++count);
  if (::mkdir(path_.c_str(), 0755) != 0) fail(errno, "mkdir " + path_);
}

Freezer::~Freezer() {
  thaw_and_remove(version_, parent_, path_);
}

void Freezer::add(pid_t pid) const {
  put(path_ + "/cgroup.procs", std::to_string(pid));
}

bool Freezer::frozen() const {
  if (version_ == Version::v1) return read_file(path_ + "/freezer.state").starts_with("FROZEN");
  return read_file(path_ + "/cgroup.events").find("frozen 1") != std::string::npos;
}

void Freezer::freeze() const {
  if (version_ == Version::v1)
    put(path_ + "/freezer.state", "FROZEN");
  else
    put(path_ + "/cgroup.freeze", "1");
  if (!wait_until([&] { return frozen(); })) fail(ETIMEDOUT, "freeze " + path_);
}

void Freezer::thaw() const {
  if (version_ == Version::v1)
    put(path_ + "/freezer.state", "THAWED");
  else
    put(path_ + "/cgroup.freeze", "0");
  if (!wait_until([&] { return !frozen(); })) fail(ETIMEDOUT, "thaw " + path_);
}

namespace {

std::string hierarchy_of(std::string_view controller) {
  std::string out = hierarchy(Freezer::Version::v1, controller);
  if (out.empty()) fail(ENOENT, "no hierarchy of the controller " + std::string(controller));
  return out;
}

void empty_and_remove(const std::string& parent, const std::string& path) {
  try {
    std::istringstream members(read_file(path + "/cgroup.procs"));
    for (std::string pid; members >> pid;) put(parent + "/cgroup.procs", pid);
  } catch (const std::system_error&) {
    // A member may just have ended.
  }
  wait_until(deadline_in(5s), [&] { return ::rmdir(path.c_str()) == 0 || errno == ENOENT; });
}

// A group of the test's own; those of test processes that were killed go.
std::string make_group(const std::string& parent) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(parent, ignored)) {
    const std::string name = entry.path().filename();
    const int owner = name.starts_with(kPrefix) ? std::atoi(name.c_str() + kPrefix.size()) : 0;
    if (owner > 0 && ::kill(owner, 0) != 0 && errno == ESRCH) empty_and_remove(parent, entry.path());
  }
  static std::atomic<int> count = 0;
  std::string path =
      parent + "/" + std::string(kPrefix) + std::to_string(::getpid()) + "-" + std::to_string(++count);
  if (::mkdir(path.c_str(), 0755) != 0) fail(errno, "mkdir " + path);
  return path;
}

}  // namespace

CpuQuota::CpuQuota(int quota_us, int period_us) : parent_(hierarchy_of("cpu")), path_(make_group(parent_)) {
  try {
    put(path_ + "/cpu.cfs_period_us", std::to_string(period_us));
    put(path_ + "/cpu.cfs_quota_us", std::to_string(quota_us));
  } catch (...) {
    empty_and_remove(parent_, path_);
    throw;
  }
}

CpuQuota::~CpuQuota() {
  empty_and_remove(parent_, path_);
}

void CpuQuota::add(pid_t pid) const {
  put(path_ + "/cgroup.procs", std::to_string(pid));
}

MemoryLimit::MemoryLimit(std::uint64_t bytes) : parent_(hierarchy_of("memory")), path_(make_group(parent_)) {
  try {
    put(path_ + "/memory.limit_in_bytes", std::to_string(bytes));
  } catch (...) {
    empty_and_remove(parent_, path_);
    throw;
  }
}

MemoryLimit::~MemoryLimit() {
  empty_and_remove(parent_, path_);
}

void MemoryLimit::add(pid_t pid) const {
  put(path_ + "/cgroup.procs", std::to_string(pid));
}

}  // namespace vmwhy::test
