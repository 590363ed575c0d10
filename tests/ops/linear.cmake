# Tests of the products, included by tests/ops/CMakeLists.txt.
trireme_test(test_linear SOURCES test_linear.c LIBS ops m)
if(TARGET test_linear AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  target_compile_definitions(test_linear PRIVATE CPU_X86=1)
endif()
