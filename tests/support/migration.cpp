// SPDX-License-Identifier: BSD-2-Clause
#include "migration.hpp"

#include <gtest/gtest.h>

#include "wait.hpp"

namespace vmwhy::test {

namespace json = boost::json;

void enable(QemuProcess& vm, std::initializer_list<const char*> capabilities) {
  json::array list;
  for (const auto* name : capabilities) list.push_back(json::object{{"capability", name}, {"state", true}});
  EXPECT_TRUE(vm.call("migrate-set-capabilities", {{"capabilities", list}}).contains("return"));
}

std::string migration_status(QemuProcess& vm) {
  const auto reply = vm.call("query-migrate");
  const auto& info = reply.at("return").as_object();
  return info.contains("status") ? std::string(info.at("status").as_string()) : "";
}

bool wait_migration(QemuProcess& vm, std::string_view status) {
  return wait_until([&] { return migration_status(vm) == status; });
}

void prepare_post_copy(QemuProcess& source, QemuProcess& target, const std::string& path) {
  enable(source, {"events", "postcopy-ram"});
  enable(target, {"events", "postcopy-ram"});
  EXPECT_TRUE(target.call("migrate-incoming", {{"uri", "unix:" + path}}).contains("return"));
  source.call("migrate-set-parameters", {{"max-bandwidth", 20000}, {"max-postcopy-bandwidth", 20000}});
}

bool lose_post_copy(QemuProcess& source, QemuProcess& target, const std::string& path) {
  source.call("migrate", {{"uri", "unix:" + path}});
  if (!wait_migration(source, "active")) return false;
  source.call("migrate-start-postcopy");
  if (!wait_migration(source, "postcopy-active") || !wait_migration(target, "postcopy-active")) return false;
  source.qmp().call_oob("migrate-pause");
  return wait_migration(source, "postcopy-paused") && wait_migration(target, "postcopy-paused");
}

}  // namespace vmwhy::test
