// SPDX-License-Identifier: BSD-2-Clause
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <ostream>

#include "cli/cli.hpp"
#include "core/text.hpp"
#include "tools/qmp-call/qmp_call.hpp"

namespace vmwhy::qmp_call {
namespace {

namespace json = boost::json;

constexpr const char* kExamples =
    "  qmp-call --list\n"
    "  qmp-call -n web1 query-status\n"
    "  qmp-call -s /run/web1.qmp query-status -- query-block -- cont\n"
    "  qmp-call -s /run/web1.qmp qom-get path=/machine property=type\n"
    "  qmp-call -s /run/web1.qmp device_del '{\"id\": \"net0\"}' --watch=DEVICE_DELETED -d 10s\n"
    "  qmp-call -p 4242 --watch\n";

// JSON where it is JSON, otherwise the text itself: "5", "true", "[1]" and "\"5\"" are what they look like.
json::value parse_value(std::string_view text) {
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  return error ? json::value(text) : value;
}

// "a.b=c" is {"a": {"b": c}}. @return false if part of the path already holds something that is no object.
bool set_argument(json::object& object, std::string_view key, json::value value) {
  json::object* level = &object;
  for (std::size_t dot = key.find('.'); dot != std::string_view::npos; dot = key.find('.')) {
    json::value& next = (*level)[key.substr(0, dot)];
    if (next.is_null()) next = json::object();
    if (!next.is_object()) return false;
    level = &next.get_object();
    key.remove_prefix(dot + 1);
  }
  if (key.empty()) return false;
  (*level)[key] = std::move(value);
  return true;
}

bool add_argument(Command& command, const std::string& word, std::string& problem) {
  if (word.starts_with('{')) {
    boost::system::error_code error;
    const json::value value = json::parse(word, error);
    if (error || !value.is_object()) {
      problem = "the arguments of " + command.name + " are no JSON object: " + printable(word, 200);
      return false;
    }
    for (const auto& member : value.get_object()) command.arguments[member.key()] = member.value();
    return true;
  }
  const std::size_t equals = word.find('=');
  if (equals == std::string::npos || equals == 0) {
    problem = "\"" + printable(word, 200) +
              "\" is neither key=value nor a JSON object; commands are separated by --";
    return false;
  }
  if (set_argument(command.arguments, std::string_view(word).substr(0, equals),
                   parse_value(word.substr(equals + 1))))
    return true;
  problem = "the key of \"" + printable(word, 200) + "\" cannot be used";
  return false;
}

// "--watch=A,B" is "--watch --event A,B": an option with a value that may be left out.
std::vector<std::string> expand_watch(int argc, const char* const* argv) {
  std::vector<std::string> out;
  bool options = true;
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--") options = false;
    if (options && word.starts_with("--watch=")) {
      out.emplace_back("--watch");
      out.push_back("--event=" + word.substr(8));
    } else {
      out.push_back(word);
    }
  }
  return out;
}

std::string check(const Options& options) {
  const int targets = !options.socket.empty() + (options.pid != 0) + !options.name.empty();
  if (options.list)
    return targets == 0 && options.commands.empty() ? "" : "--list takes no VM and no command";
  if (options.quiet && options.verbose) return "-q and -v exclude each other";
  if (options.pid > 0x7fffffff) return "--pid takes a process id, from 1 on";
  if (targets == 0) return "which VM? Give -s SOCKET, -p PID or -n NAME; --list shows what there is";
  if (targets > 1) return "-s, -p and -n exclude each other";
  if (options.commands.empty() && !options.watch) return "no command; try query-status, or --watch";
  if (options.deadline.count() <= 0) return "--qmp-deadline must be more than 0";
  return {};
}

}  // namespace

std::optional<std::vector<Command>> parse_commands(const std::vector<std::string>& words,
                                                   std::string& problem) {
  std::vector<Command> out;
  bool begin = true;
  for (const std::string& word : words) {
    if (word == "--") {
      begin = true;
    } else if (begin) {
      if (word.empty() || word.find_first_of("={ ") != std::string::npos) {
        problem = "\"" + printable(word, 200) + "\" is no command";
        return std::nullopt;
      }
      out.push_back({word, {}});
      begin = false;
    } else if (!add_argument(out.back(), word, problem)) {
      return std::nullopt;
    }
  }
  return out;
}

std::optional<int> parse_options(int argc, const char* const* argv, Options& options, std::ostream& out,
                                 std::ostream& err) {
  std::vector<std::string> words;
  std::vector<std::string> more;
  std::string events;
  cli::Color color = cli::Color::automatic;
  cli::Parser parser("qmp-call", "Send QMP commands to a VM, show its events, list the QEMUs of this host.");
  parser.text("-s,--qmp", options.socket, "SOCKET", "QMP socket: a path, @NAME (abstract) or HOST:PORT")
      .number("-p,--pid", options.pid, "PID", "The QEMU process with this id")
      .text("-n,--name", options.name, "NAME", "The VM with this name or UUID")
      .flag("-l,--list", options.list, "List the QEMUs of this host and their monitors")
      .flag("-w,--watch", options.watch, "Show events; --watch=EVENT,... only these")
      .text("--event", events, "EVENT,...", "What --watch shows (the same as --watch=EVENT,...)")
      .duration("-d,--duration", options.duration, "End --watch after this time (default: never)")
      .duration("--qmp-deadline", options.deadline, "For connecting and for each reply (default: 5s)")
      .flag("--json", options.json, "One JSON object per reply and event")
      .flag("-v,--verbose", options.verbose, "Show every message on stderr")
      .flag("-q,--quiet", options.quiet, "Print no replies: only errors, and what --watch shows")
      .color(color)
      .text("--proc", options.proc, "FOLDER", "Where /proc is mounted")
      .positional("COMMAND", words, "Command, then key=value... or a JSON object", false)
      .command_after_dashes(more, "Further commands, each after another --")
      .examples(kExamples);
  const std::vector<std::string> arguments = expand_watch(argc, argv);
  std::vector<const char*> pointers;
  pointers.reserve(arguments.size());
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());
  if (const auto code = parser.parse(static_cast<int>(pointers.size()), pointers.data(), out, err))
    return code;
  options.color = cli::use_color(color, STDOUT_FILENO);
  for (const std::string_view event : split(events, ','))
    if (!trim(event).empty()) options.events.emplace_back(trim(event));
  if (!words.empty()) words.emplace_back("--");
  words.insert(words.end(), more.begin(), more.end());
  std::string problem;
  auto commands = parse_commands(words, problem);
  if (commands) {
    options.commands = std::move(*commands);
    problem = check(options);
  }
  if (problem.empty()) return std::nullopt;
  err << "qmp-call: " << problem << "\n";
  return cli::kUsage;
}

}  // namespace vmwhy::qmp_call
