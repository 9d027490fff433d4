// SPDX-License-Identifier: BSD-2-Clause
#include "causes/case.hpp"

#include <algorithm>
#include <array>
#include <boost/json/parse.hpp>
#include <map>

#include "timeline/json_read.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {

using timeline::Topic;

bool StorageFacts::has_driver(std::string_view driver) const {
  return std::find(drivers.begin(), drivers.end(), driver) != drivers.end();
}

std::string_view StorageFacts::network_driver() const {
  static constexpr std::array<std::string_view, 12> kRemote = {
      "nbd", "iscsi", "rbd", "ssh", "nfs", "gluster", "http", "https", "ftp", "curl", "nvmeof", "sheepdog"};
  for (const std::string_view driver : kRemote)
    if (has_driver(driver)) return driver;
  return {};
}

bool Case::is_storage_error() const {
  if (incident.topic == Topic::io_reported || incident.topic == Topic::pause_loop)
    return storage.error != nullptr;
  if (!is_pause()) return false;
  return run_state == "io-error" || (storage.error != nullptr && !storage.after_stop);
}

const timeline::QmpEvent* Case::event(std::string_view name, std::uint64_t after_ns) const {
  if (const timeline::QmpEvent* before = vm.last_event(name, from, begin)) return before;
  return vm.first_event(name, begin, std::min(until, begin + after_ns));
}

std::string Case::migration_status() const {
  const timeline::QmpEvent* event = vm.last_event("MIGRATION", 0, until);
  // A late look may be a query's; the later of both counts.
  const timeline::Migration* query = vm.migrations.last_in(0, until);
  if (query != nullptr && (event == nullptr || query->time_ns >= event->arrival_ns)) return query->status;
  return event != nullptr ? timeline::text_of(event->data, "status", 32) : std::string();
}

const timeline::Log* Case::log() const {
  const std::uint64_t last = until + timeline::kCollectionLimit;
  return vm.logs.last_in(begin - std::min(begin, timeline::kSecond), last);
}

std::string_view Case::log_text() const {
  const timeline::Log* tail = log();
  return tail != nullptr ? std::string_view(tail->text) : std::string_view();
}

const timeline::Process* Case::process() const {
  return vm.processes.last_in(from, until + timeline::kSecond);
}

std::vector<const timeline::KernelLine*> Case::kernel_lines(std::uint64_t before_ns,
                                                            std::uint64_t after_ns) const {
  std::vector<const timeline::KernelLine*> lines;
  const std::uint64_t first = begin - std::min(begin, before_ns);
  const std::uint64_t last = begin + after_ns;
  for (const timeline::KernelLine& line : timeline.host().kernel)
    if (line.time_ns >= first && line.time_ns <= last) lines.push_back(&line);
  return lines;
}

Case make_case(const timeline::Timeline& timeline, const timeline::Incident& incident) {
  Case c{timeline,           timeline.vm(incident.vm),
         incident,           std::min(incident.earliest_ns, incident.begin_ns),
         incident.begin_ns,  incident.until(std::max(timeline.now_ns(), incident.begin_ns)),
         incident.run_state, {}};
  // One stop, two states: a switchover that was completed.
  for (const timeline::Status& status : c.vm.statuses)
    if (c.run_state == "finish-migrate" && status.state == "postmigrate" && status.time_ns >= c.begin &&
        status.time_ns <= c.until)
      c.run_state = status.state;
  c.storage = find_storage(c);
  return c;
}

namespace {

void find_error(const Case& c, StorageFacts& facts) {
  const timeline::Bounded<timeline::QmpEvent>* errors = c.vm.events_named("BLOCK_IO_ERROR");
  if (errors == nullptr) return;
  const bool reported = c.incident.topic == Topic::io_reported;
  const bool loop = c.incident.topic == Topic::pause_loop;
  for (const timeline::QmpEvent& error : *errors) {
    if (error.time_ns < c.from || error.time_ns > c.until) continue;
    const bool stops = timeline::text_of(error.data, "action", 16) == "stop";
    if (stops == reported) continue;
    ++facts.errors;
    if (facts.error == nullptr) {
      facts.error = &error;
      facts.after_stop = !reported && !loop && error.time_ns > c.begin;
    }
  }
  facts.errors += facts.error != nullptr ? errors->dropped() : 0;
  if (facts.error == nullptr) return;
  facts.node = timeline::text_of(facts.error->data, "node-name", 128);
  if (facts.node.empty()) facts.node = timeline::text_of(facts.error->data, "device", 128);
  facts.operation = timeline::text_of(facts.error->data, "operation", 16);
  facts.reason = timeline::text_of(facts.error->data, "reason", 256);
  facts.nospace = timeline::bool_of(facts.error->data, "nospace");
  // A disk that does not stop says no `nospace`; another errno's text says as much.
  facts.nospace_said = facts.error->data.contains("nospace") ||
                       (!facts.reason.empty() && facts.reason != "No space left on device");
}

/// The drivers in a description that QEMU makes of a node ("json:{…}"), below its own.
void add_described_drivers(std::string_view filename, std::vector<std::string>& drivers) {
  constexpr std::string_view kPrefix = "json:";
  if (!filename.starts_with(kPrefix)) return;
  boost::system::error_code error;
  const boost::json::value value =
      boost::json::parse(boost::json::string_view(filename.substr(kPrefix.size())), error);
  const boost::json::value* at = error ? nullptr : &value;
  for (int depth = 0; depth < 16 && at != nullptr && at->is_object(); ++depth) {
    at = at->get_object().if_contains("file");
    if (at != nullptr && at->is_object())
      drivers.push_back(timeline::text_of(at->get_object(), "driver", 32));
  }
}

void find_chain(const Case& c, StorageFacts& facts) {
  if (facts.node.empty()) return;
  facts.chain.push_back(facts.node);
  const timeline::BlockGraph* graph = c.vm.graphs.last_in(0, c.until + timeline::kSecond);
  if (graph == nullptr) return;
  for (std::size_t i = 0; i < facts.chain.size() && i < 32; ++i) {
    auto at = graph->nodes.find(facts.chain[i]);
    if (at == graph->nodes.end()) continue;
    facts.drivers.push_back(at->second.driver);
    // Before QEMU named the children: a description tells of the drivers below.
    facts.injected = facts.injected || at->second.driver == "blkdebug" ||
                     at->second.filename.find("\"blkdebug\"") != std::string::npos ||
                     at->second.filename.starts_with("blkdebug:");
    for (const std::string& child : at->second.children)
      if (std::find(facts.chain.begin(), facts.chain.end(), child) == facts.chain.end())
        facts.chain.push_back(child);
    if (!at->second.children.empty() || at->second.filename.empty()) continue;
    add_described_drivers(at->second.filename, facts.drivers);
    // Before QEMU named the children: protocol nodes of the same file stand below.
    for (const auto& [name, node] : graph->nodes) {
      if (node.filename == at->second.filename &&
          std::find(facts.chain.begin(), facts.chain.end(), name) == facts.chain.end())
        facts.chain.push_back(name);
    }
  }
}

/// QEMU's name of what is under a node is that file, or a json: description that holds it.
bool names(const std::string& filename, const std::string& path) {
  return filename == path ||
         (filename.starts_with("json:") && filename.find('"' + path + '"') != std::string::npos);
}

/// QEMU told of the failing node and of this file's, and does not connect them: another disk's file.
bool is_of_another(const timeline::NodeFile& file, const StorageFacts& facts,
                   const timeline::BlockGraph* graph) {
  return graph != nullptr && graph->nodes.contains(facts.node) && graph->nodes.contains(file.node);
}

bool is_of(const timeline::NodeFile& file, const StorageFacts& facts, const timeline::BlockGraph* graph) {
  for (const std::string& node : facts.chain) {
    if (file.node == node) return true;
    if (graph == nullptr) continue;
    auto at = graph->nodes.find(node);
    if (at != graph->nodes.end() && !file.path.empty() && names(at->second.filename, file.path)) return true;
  }
  return false;
}

/// The first look after the pause tells; one from before it only where there is no other: the file system
/// filled up, and the device died, in between.
void find_file(const Case& c, StorageFacts& facts) {
  const timeline::BlockGraph* graph = c.vm.graphs.last_in(0, c.until + timeline::kSecond);
  const std::uint64_t first = c.begin - std::min(c.begin, timeline::kSecond);
  const std::uint64_t last = c.incident.end_ns ? c.until + timeline::kSecond : c.until;
  const timeline::NodeFile* only = nullptr;
  bool several = false;
  for (const timeline::NodeFile& file : c.vm.files) {
    if (file.time_ns < first || file.time_ns > last) continue;
    const bool early = file.time_ns < c.begin;
    if (!facts.chain.empty() && is_of(file, facts, graph)) {
      facts.file = &file;
      facts.file_of_node = true;
      if (!early) return;
      continue;
    }
    if (is_of_another(file, facts, graph)) continue;
    if (only == nullptr || (only->time_ns < c.begin && only->path == file.path)) only = &file;
    several = several || only->path != file.path;
  }
  if (facts.file == nullptr && !several && facts.network_driver().empty()) facts.file = only;
}

std::string base_name(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1));
}

void find_devices(StorageFacts& facts) {
  if (facts.file == nullptr) return;
  for (const timeline::BlockDevice& device : facts.file->devices) facts.devices.push_back(device.name);
  if (!facts.devices.empty()) return;
  for (const std::string* path : {&facts.file->path, &facts.file->source}) {
    if (path->rfind("/dev/", 0) != 0) continue;
    std::string device = base_name(*path);
    if (!device.empty()) facts.devices.push_back(std::move(device));
  }
}

/// The node whose guest device waited longest for it, all requests taken together.
std::string slow_node(const Case& c) {
  std::map<std::string, std::uint64_t> waited;
  const std::string* worst = nullptr;
  for (const timeline::IoStats& stats : c.vm.io_stats) {
    if (!stats.of_guest_data() || stats.time_ns < c.begin || stats.begin_ns() > c.until) continue;
    const auto at = waited.try_emplace(stats.node).first;
    at->second += stats.io.mean_ns * stats.io.count;
    if (worst == nullptr || at->second > waited.at(*worst)) worst = &at->first;
  }
  return worst == nullptr ? std::string() : *worst;
}

}  // namespace

StorageFacts find_storage(const Case& c) {
  StorageFacts facts;
  find_error(c, facts);
  if (c.incident.topic == Topic::storage_slow) facts.node = slow_node(c);
  find_chain(c, facts);
  find_file(c, facts);
  find_devices(facts);
  find_requests(c, facts);
  find_in_qemu(c, facts);
  return facts;
}

}  // namespace vmwhy::causes
