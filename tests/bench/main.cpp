// SPDX-License-Identifier: BSD-2-Clause
// Runs the benchmarks whose name contains one of the arguments; all without arguments.
// `--list` prints the names, `--capability NAME` is as in the test suites.

#include <signal.h>

#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <exception>
#include <iostream>
#include <map>
#include <string_view>

#include "bench.hpp"
#include "tests/support/capability.hpp"

namespace vmwhy::bench {

namespace {

std::map<std::string, Function>& registry() {
  static std::map<std::string, Function> all;
  return all;
}

boost::json::value number(const std::optional<double>& value) {
  return value ? boost::json::value(*value) : boost::json::value(nullptr);
}

bool wanted(const std::string& name, int argc, char** argv) {
  if (argc < 2) return true;
  for (int i = 1; i < argc; ++i)
    if (name.find(argv[i]) != std::string::npos) return true;
  return false;
}

int run(int argc, char** argv) {
  int failed = 0, ran = 0;
  for (const auto& [name, function] : registry()) {
    if (!wanted(name, argc, argv)) continue;
    ++ran;
    try {
      Report report(name);
      function(report);
    } catch (const std::exception& error) {
      std::cerr << "bench " << name << ": " << error.what() << '\n';
      ++failed;
    }
  }
  if (ran == 0) std::cerr << "no such benchmark; --list prints the names\n";
  return failed != 0 || ran == 0 ? 1 : 0;
}

}  // namespace

void Report::add(const Figure& figure) {
  const boost::json::object line{{"bench", bench_},
                                 {"figure", figure.figure},
                                 {"value", figure.value},
                                 {"unit", figure.unit},
                                 {"goal", number(figure.goal)},
                                 {"peer", figure.peer},
                                 {"peer_value", number(figure.peer_value)}};
  std::cout << boost::json::serialize(line) << std::endl;
}

bool Report::needs(const char* capability) {
  const std::string& missing = test::capability_missing(capability);
  if (missing.empty()) return false;
  skip("needs " + std::string(capability) + ": " + missing);
  return true;
}

void Report::skip(const std::string& why) {
  const boost::json::object line{{"bench", bench_}, {"skipped", why}};
  std::cout << boost::json::serialize(line) << std::endl;
}

Benchmark::Benchmark(const char* name, Function function) {
  registry().emplace(name, function);
}

}  // namespace vmwhy::bench

int main(int argc, char** argv) {
  if (const int status = vmwhy::test::capability_option(argc, argv); status >= 0) return status;
  ::signal(SIGPIPE, SIG_IGN);
  if (argc == 2 && std::string_view(argv[1]) == "--list") {
    for (const auto& entry : vmwhy::bench::registry()) std::cout << entry.first << '\n';
    return 0;
  }
  return vmwhy::bench::run(argc, argv);
}
