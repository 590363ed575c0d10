# generated/trireme_version.h: version from project(), commit from git (read at build time, so it is never stale).
add_custom_target(trireme_version ALL
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DOUT=${PROJECT_BINARY_DIR}/generated/trireme_version.h
          -DVERSION=${PROJECT_VERSION} -P ${PROJECT_SOURCE_DIR}/cmake/version_header.cmake
  BYPRODUCTS ${PROJECT_BINARY_DIR}/generated/trireme_version.h VERBATIM)
