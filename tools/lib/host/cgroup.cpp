// SPDX-License-Identifier: BSD-2-Clause
#include "host/cgroup.hpp"

#include <algorithm>
#include <limits>

#include "core/text.hpp"

namespace vmwhy::host {
namespace {

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  return text;
}

std::string folder_of(const std::string& mount, std::string_view path) {
  if (mount.empty()) return {};
  return path == "/" ? mount : mount + std::string(path);
}

/// Calls `visit` for `folder` and each of its parents up to the mount point.
template <class Visit>
void walk_up(std::string folder, const std::string& mount, Visit visit) {
  for (int depth = 0; depth < 64 && folder.size() >= mount.size() && !folder.empty(); ++depth) {
    visit(folder);
    if (folder == mount) return;
    folder.resize(folder.rfind('/') == std::string::npos ? 0 : folder.rfind('/'));
  }
}

std::uint64_t limit_of(const std::string& file) {
  const std::string text = read_or_empty(file, 64);
  const auto value = parse_u64(trimmed(text));
  // v1 says "no limit" by the largest number of whole pages.
  if (!value || *value >= (std::uint64_t{1} << 62)) return kNoLimit;
  return *value;
}

void read_memory(const CgroupPlace& place, const std::string& mount, trace::CgroupState& out) {
  if (place.memory.empty()) return;
  const bool v1 = place.memory_is_v1;
  const std::string current =
      read_or_empty(place.memory + (v1 ? "/memory.usage_in_bytes" : "/memory.current"), 64);
  out.memory_current_bytes = parse_u64(trimmed(current)).value_or(0);
  out.oom_kills = number_of(
      read_or_empty(place.memory + (v1 ? "/memory.oom_control" : "/memory.events"), 1024), "oom_kill");
  walk_up(place.memory, mount, [&](const std::string& folder) {
    const std::uint64_t limit = limit_of(folder + (v1 ? "/memory.limit_in_bytes" : "/memory.max"));
    out.memory_max_bytes = std::min(out.memory_max_bytes, limit);
  });
}

void take_quota(trace::CgroupState& out, std::uint64_t quota, std::uint64_t period) {
  if (quota == 0 || period == 0) return;
  const bool tighter =
      out.quota_us < 0 || quota * out.period_us < static_cast<std::uint64_t>(out.quota_us) * period;
  if (!tighter) return;
  out.quota_us = static_cast<std::int64_t>(quota);
  out.period_us = period;
}

void read_cpu(const CgroupPlace& place, const std::string& mount, trace::CgroupState& out) {
  if (place.cpu.empty()) return;
  walk_up(place.cpu, mount, [&](const std::string& folder) {
    // Throttling of a parent group takes the CPU away as well: the sums of all of them.
    const std::string stat = read_or_empty(folder + "/cpu.stat", 4096);
    out.throttled_periods += number_of(stat, "nr_throttled");
    out.throttled_us +=
        place.cpu_is_v1 ? number_of(stat, "throttled_time") / 1000 : number_of(stat, "throttled_usec");
    if (place.cpu_is_v1) {
      const std::string quota = read_or_empty(folder + "/cpu.cfs_quota_us", 64);
      const std::string period = read_or_empty(folder + "/cpu.cfs_period_us", 64);
      take_quota(out, parse_u64(trimmed(quota)).value_or(0), parse_u64(trimmed(period)).value_or(0));
    } else {
      const std::string max = read_or_empty(folder + "/cpu.max", 64);
      const std::string_view text = trimmed(max);
      const auto space = text.find(' ');
      if (space == std::string_view::npos) return;
      take_quota(out, parse_u64(text.substr(0, space)).value_or(0),
                 parse_u64(text.substr(space + 1)).value_or(0));
    }
  });
}

trace::FreezerState parse_freezer(std::string_view text, bool v1) {
  if (!v1) return number_of(text, "frozen") == 1 ? trace::FreezerState::frozen : trace::FreezerState::thawed;
  text = trimmed(text);
  if (text == "FROZEN") return trace::FreezerState::frozen;
  if (text == "FREEZING") return trace::FreezerState::freezing;
  return text == "THAWED" ? trace::FreezerState::thawed : trace::FreezerState::unknown;
}

}  // namespace

CgroupMounts parse_cgroup_mounts(std::string_view mountinfo) {
  CgroupMounts out;
  for (const std::string_view line : split(mountinfo, '\n')) {
    const auto dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    const auto before = split(line.substr(0, dash), ' ');
    const auto after = split(line.substr(dash + 3), ' ');
    if (before.size() < 5 || after.size() < 3) continue;
    const std::string mount(before[4]);
    if (after[0] == "cgroup2" && out.unified.empty()) out.unified = mount;
    if (after[0] != "cgroup") continue;
    for (const std::string_view option : split(after[2], ',')) out.v1.emplace(option, mount);
  }
  return out;
}

CgroupMounts find_cgroup_mounts(const std::string& proc) {
  return parse_cgroup_mounts(read_or_empty(proc + "/self/mountinfo", 4u << 20));
}

CgroupPlace locate_cgroup(std::string_view cgroup, const CgroupMounts& mounts) {
  CgroupPlace out;
  std::string unified_path, freezer_path;
  const auto v1_mount = [&](std::string_view controller) {
    const auto found = mounts.v1.find(std::string(controller));
    return found == mounts.v1.end() ? std::string() : found->second;
  };
  for (const std::string_view line : split(cgroup, '\n')) {
    const auto first = line.find(':');
    const auto second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::string_view path = line.substr(second + 1);
    if (controllers.empty()) {
      unified_path = path;
      out.unified = folder_of(mounts.unified, path);
      continue;
    }
    for (const std::string_view controller : split(controllers, ',')) {
      const std::string folder = folder_of(v1_mount(controller), path);
      if (folder.empty()) continue;
      if (controller == "memory") out.memory = folder, out.memory_is_v1 = true, out.memory_path = path;
      if (controller == "cpu") out.cpu = folder, out.cpu_is_v1 = true, out.cpu_path = path;
      if (controller == "freezer") out.freezer_v1 = folder, freezer_path = path;
    }
  }
  if (out.memory.empty()) out.memory = out.unified, out.memory_path = unified_path;
  if (out.cpu.empty()) out.cpu = out.unified, out.cpu_path = unified_path;
  for (const std::string* path : {&unified_path, &freezer_path, &out.memory_path})
    if (out.path.size() <= 1 && !path->empty()) out.path = *path;
  return out;
}

CgroupWatch::CgroupWatch(std::uint32_t pid, const CgroupMounts& mounts, const std::string& proc)
    : mounts_(mounts), cgroup_(proc + "/" + std::to_string(pid) + "/cgroup") {
  refresh();
}

void CgroupWatch::refresh() {
  const auto text = cgroup_.read();
  if (text && *text != last_) locate(*text);
}

void CgroupWatch::locate(std::string_view cgroup) {
  last_ = cgroup;
  place_ = locate_cgroup(last_, mounts_);
  freezer_v1_ = place_.freezer_v1.empty() ? KeptFile() : KeptFile(place_.freezer_v1 + "/freezer.state");
  freezer_v2_ = place_.unified.empty() ? KeptFile() : KeptFile(place_.unified + "/cgroup.events");
}

trace::FreezerState CgroupWatch::freezer() const {
  auto state = trace::FreezerState::unknown;
  if (const auto text = freezer_v1_.read()) state = parse_freezer(*text, true);
  if (const auto text = freezer_v2_.read()) state = std::max(state, parse_freezer(*text, false));
  return state;
}

trace::OwnedRecord CgroupWatch::record(std::uint64_t time_ns, std::uint32_t vm) const {
  const auto mount = [&](bool v1, const char* controller) {
    const auto found = mounts_.v1.find(controller);
    return v1 && found != mounts_.v1.end() ? found->second : mounts_.unified;
  };
  trace::CgroupState out{};
  out.memory_max_bytes = kNoLimit;
  out.quota_us = -1;
  out.version = !place_.freezer_v1.empty() || place_.memory_is_v1 ? 1 : 2;
  out.freezer = static_cast<std::uint32_t>(freezer());
  read_memory(place_, mount(place_.memory_is_v1, "memory"), out);
  read_cpu(place_, mount(place_.cpu_is_v1, "cpu"), out);
  if (place_.cpu_path == place_.path && place_.memory_path == place_.path)
    return trace::make_record(time_ns, vm, out, place_.path);
  return trace::make_record(time_ns, vm, out,
                            trace::join_text({place_.path, place_.cpu_path, place_.memory_path}));
}

}  // namespace vmwhy::host
