// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Secrets are never recorded: what replies may carry is masked on the way in.

#include <string>
#include <string_view>

namespace vmwhy::record {

/// `json` with passwords in URLs (scheme://user:PASSWORD@host), rbd keys and members named like a password
/// replaced by "***". Length may change.
std::string mask_secrets(std::string_view json);

}  // namespace vmwhy::record
