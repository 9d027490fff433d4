// SPDX-License-Identifier: BSD-2-Clause
#include "qemu.hpp"

#include <unistd.h>

#include <boost/json/serialize.hpp>
#include <stdexcept>

namespace vmwhy::test {

namespace json = boost::json;

namespace {

std::vector<std::string> command_line(const QemuOptions& options, const std::string& stem,
                                      const std::string& monitor) {
  std::vector<std::string> args = options.by;
  args.insert(args.end(), {"qemu-system-x86_64", "-name", options.name + ",debug-threads=on", "-S", "-accel",
                           options.accel, "-m", std::to_string(options.memory_mb), "-display", "none",
                           "-nodefaults", "-no-user-config", "-serial", "file:" + stem + ".serial", "-qmp",
                           "unix:" + stem + ".test.qmp,server=on,wait=off", "-qmp",
                           "unix:" + monitor + ",server=on,wait=off"});
  const auto add = [&](std::initializer_list<std::string> more) { args.insert(args.end(), more); };
  if (options.boot.ends_with(".elf"))
    add({"-kernel", guest(options.boot)});
  else if (!options.boot.empty())
    add({"-drive", "file=" + guest(options.boot) + ",format=raw,if=floppy,readonly=on", "-boot", "a"});
  args.insert(args.end(), options.args.begin(), options.args.end());
  return args;
}

}  // namespace

QemuProcess::QemuProcess(const TempDir& dir, QemuOptions options)
    : options_(std::move(options)),
      stem_(dir / options_.name),
      monitor_(stem_ + ".qmp"),
      child_(ChildProcess::Options{.args = command_line(options_, stem_, monitor_),
                                   .stdout_file = stem_ + ".stdout",
                                   .stderr_file = stem_ + ".stderr"}) {
  const TimePoint deadline = deadline_in();
  const auto listens = [&] { return ::access((stem_ + ".test.qmp").c_str(), F_OK) == 0; };
  wait_until(deadline, [&] { return listens() || !child_.running(); });
  if (!listens()) throw std::runtime_error("QEMU did not start: " + stderr_text());
  try {
    qmp_ = QmpProbe(stem_ + ".test.qmp", options_.oob, deadline);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string(error.what()) + "; QEMU says: " + stderr_text());
  }
}

std::string QemuProcess::hmp(std::string_view line) {
  const auto reply = call("human-monitor-command", {{"command-line", line}});
  const auto* text = reply.if_contains("return");
  return text != nullptr && text->is_string() ? std::string(text->as_string()) : json::serialize(reply);
}

std::string QemuProcess::run_state() {
  const auto reply = call("query-status");
  const auto* result = reply.if_contains("return");
  if (result == nullptr) return json::serialize(reply);
  return std::string(result->as_object().at("status").as_string());
}

bool QemuProcess::wait_run_state(std::string_view state) {
  return wait_until([&] { return run_state() == state; });
}

std::vector<std::string> disk(const std::string& image, const std::string& format, const std::string& driver,
                              const std::string& file_options, const std::string& device) {
  const std::string more = file_options.empty() ? "" : "," + file_options;
  std::vector<std::string> args{"-blockdev", "driver=" + driver + ",node-name=file0,filename=" + image + more,
                                "-blockdev", "driver=" + format + ",node-name=disk0,file=file0"};
  if (device == "virtio-scsi") args.insert(args.end(), {"-device", "virtio-scsi-pci"});
  const std::string front = device == "virtio-scsi" ? "scsi-hd"
                            : device == "ide"       ? "ide-hd"
                                                    : device + "-pci";
  args.insert(args.end(), {"-device", front + ",drive=disk0,id=vd0,werror=stop,rerror=stop"});
  return args;
}

std::vector<std::string> failing_disk(const std::string& image, const std::string& iotype, int error,
                                      bool once, const std::string& device_options) {
  const json::object node{
      {"driver", "raw"},
      {"node-name", "disk0"},
      {"file",
       json::object{{"driver", "blkdebug"},
                    {"node-name", "debug0"},
                    {"image", json::object{{"driver", "file"}, {"node-name", "file0"}, {"filename", image}}},
                    {"inject-error", json::array{json::object{{"event", "none"},
                                                              {"iotype", iotype},
                                                              {"errno", error},
                                                              {"sector", 4096},
                                                              {"once", once}}}}}}};
  return {"-blockdev", json::serialize(node), "-device",
          "virtio-blk-pci,drive=disk0,id=vd0" + (device_options.empty() ? "" : "," + device_options)};
}

}  // namespace vmwhy::test
