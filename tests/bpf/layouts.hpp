// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Kernels that no machine here runs: the structs as a test fills them, and files with their BTF, against
// which the probe's CO-RE relocations are resolved.

#include <string>

namespace vmx_6_1 {
#include "tests/bpf/layouts/vmx_6_1.h"
}
namespace vmx_6_16 {
#include "tests/bpf/layouts/vmx_6_16.h"
}
namespace svm_6_1 {
#include "tests/bpf/layouts/svm_6_1.h"
}
namespace svm_u64 {
#include "tests/bpf/layouts/svm_u64.h"
}

namespace vmwhy::test {

/// The file with the BTF of layout `name` ("vmx_6_1", …), made by the Makefile.
std::string layout_btf(const std::string& name);

}  // namespace vmwhy::test
