// SPDX-License-Identifier: BSD-2-Clause
// The main() of every test suite.

#include <gmock/gmock.h>
#include <signal.h>

#include "capability.hpp"

int main(int argc, char** argv) {
  if (const int status = vmwhy::test::capability_option(argc, argv); status >= 0) return status;
  ::signal(SIGPIPE, SIG_IGN);
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
