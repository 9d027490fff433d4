// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Executables and debug files in a folder, by build id: as DIR/.build-id/xx/yyyy.debug,
// DIR/.build-id/xx/yyyy, or under any name in DIR itself. Safe with build ids from a stranger's file. One
// thread.

#include <map>
#include <memory>
#include <string>

#include "sym/executable.hpp"

namespace vmwhy::sym {

class DebugFolder {
 public:
  explicit DebugFolder(std::string path) : path_(std::move(path)) {}
  /// Null: there is none.
  const Executable* find(const std::string& build_id);

 private:
  std::unique_ptr<Executable> open_by_id(const std::string& build_id) const;
  void read_folder();

  std::string path_;
  std::map<std::string, std::unique_ptr<Executable>> known_;  ///< By build id. Null: there is none.
  bool read_ = false;
};

}  // namespace vmwhy::sym
