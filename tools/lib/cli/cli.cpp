// SPDX-License-Identifier: BSD-2-Clause
#include "cli/cli.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <CLI/CLI.hpp>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>

namespace vmwhy::cli {

std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(value) || value < 0) return std::nullopt;
  const std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  struct Unit {
    std::string_view name;
    double ns;
  };
  static constexpr Unit kUnits[] = {{"", 1e9},  {"ns", 1},   {"us", 1e3},   {"ms", 1e6},
                                    {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}, {"d", 86400e9}};
  for (const Unit& u : kUnits) {
    if (u.name != unit) continue;
    const double ns = value * u.ns;
    if (ns > 10 * 365 * 86400e9) return std::nullopt;
    return std::chrono::nanoseconds(std::llround(ns));
  }
  return std::nullopt;
}

bool use_color(Color color, int fd) {
  if (color != Color::automatic) return color == Color::always;
  const char* const no_color = std::getenv("NO_COLOR");
  if (no_color != nullptr && *no_color != '\0') return false;
  const char* const term = std::getenv("TERM");
  if (term != nullptr && std::string_view(term) == "dumb") return false;
  return ::isatty(fd) == 1;
}

class Parser::Impl {
 public:
  Impl(std::string tool, std::string summary) : tool_(std::move(tool)), app_(std::move(summary), tool_) {
    app_.set_help_flag("-h,--help", "Print this help and exit");
    app_.add_flag("-V,--version", version_, "Print the version and exit");
    app_.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    app_.get_formatter()->column_width(34);
  }

  std::string tool_;
  CLI::App app_;
  bool version_ = false;
  std::string examples_;
  std::vector<std::string>* command_ = nullptr;
};

Parser::Parser(std::string tool, std::string summary)
    : impl_(std::make_unique<Impl>(std::move(tool), std::move(summary))) {}
Parser::Parser(Parser&&) noexcept = default;
Parser::~Parser() = default;

Parser& Parser::flag(const std::string& names, bool& value, const std::string& help) {
  impl_->app_.add_flag(names, value, help);
  return *this;
}

Parser& Parser::text(const std::string& names, std::string& value, const std::string& placeholder,
                     const std::string& help) {
  impl_->app_.add_option(names, value, help)->type_name(placeholder);
  return *this;
}

Parser& Parser::texts(const std::string& names, std::vector<std::string>& values,
                      const std::string& placeholder, const std::string& help) {
  impl_->app_.add_option(names, values, help)
      ->type_name(placeholder)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1)
      ->allow_extra_args(false);
  return *this;
}

Parser& Parser::number(const std::string& names, std::uint64_t& value, const std::string& placeholder,
                       const std::string& help, std::uint64_t least) {
  CLI::Option* const option = impl_->app_.add_option(names, value, help)->type_name(placeholder);
  if (least == 0) return *this;
  option->check([least, placeholder](const std::string& text) {
    std::uint64_t number = 0;
    const bool enough = !text.starts_with('-') && CLI::detail::lexical_cast(text, number) && number >= least;
    return enough ? std::string() : placeholder + " counts from " + std::to_string(least) + ", not " + text;
  });
  return *this;
}

Parser& Parser::duration(const std::string& names, std::chrono::nanoseconds& value, const std::string& help) {
  impl_->app_
      .add_option_function<std::string>(
          names,
          [&value](const std::string& text) {
            const auto parsed = parse_duration(text);
            if (!parsed) {
              throw CLI::ValidationError("'" + text + "' is no duration; write 500ms, 2s, 5m or 1h");
            }
            value = *parsed;
          },
          help)
      ->type_name("TIME");
  return *this;
}

Parser& Parser::color(Color& value) {
  impl_->app_
      .add_option_function<std::string>(
          "--color",
          [&value](const std::string& text) {
            if (text == "auto") {
              value = Color::automatic;
            } else if (text == "always") {
              value = Color::always;
            } else if (text == "never") {
              value = Color::never;
            } else {
              throw CLI::ValidationError("--color takes auto, always or never, not '" + text + "'");
            }
          },
          "Colours: auto, always or never (default: auto; honours NO_COLOR)")
      ->type_name("WHEN");
  return *this;
}

Parser& Parser::positional(const std::string& name, std::vector<std::string>& values, const std::string& help,
                           bool required) {
  CLI::Option* const option = impl_->app_.add_option(name, values, help)->type_name("");
  option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  if (required) option->required();
  return *this;
}

Parser& Parser::command_after_dashes(std::vector<std::string>& values, const std::string& help) {
  impl_->command_ = &values;
  impl_->examples_ = "-- COMMAND [ARGUMENT]...\n  " + help + "\n" + impl_->examples_;
  return *this;
}

Parser& Parser::examples(std::string text) {
  if (!impl_->examples_.empty()) impl_->examples_ += "\n";
  impl_->examples_ += "Examples:\n" + std::move(text);
  return *this;
}

std::optional<int> Parser::parse(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  if (impl_->command_ != nullptr) {
    const auto dashes = std::find(arguments.begin(), arguments.end(), "--");
    if (dashes != arguments.end()) {
      impl_->command_->assign(dashes + 1, arguments.end());
      arguments.erase(dashes, arguments.end());
    }
  }
  impl_->app_.footer(impl_->examples_);
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
  try {
    impl_->app_.parse(std::move(arguments));
  } catch (const CLI::CallForHelp&) {
    out << impl_->app_.help();
    return kOk;
  } catch (const CLI::ParseError& error) {
    if (impl_->version_) {  // --version needs none of the required arguments
      out << version_line(impl_->tool_) << '\n';
      return kOk;
    }
    err << impl_->tool_ << ": " << error.what() << "; see " << impl_->tool_ << " --help\n";
    return kUsage;
  }
  if (impl_->version_) {
    out << version_line(impl_->tool_) << '\n';
    return kOk;
  }
  return std::nullopt;
}

int guarded(std::string_view tool, int (*body)(int, char**), int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  int code = kFailed;
  try {
    code = body(argc, argv);
    std::cout.flush();
  } catch (const std::exception& error) {
    std::cerr << tool << ": internal error: " << error.what() << '\n';
    return kFailed;
  }
  // Whoever read our output has gone away (`| head`): that is no failure of ours.
  if (!std::cout && errno == EPIPE) return kOk;
  return code;
}

}  // namespace vmwhy::cli
