# One set of warnings for every file, errors with gcc and clang alike.
add_compile_options(-Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef
  -Wpointer-arith -Wcast-align -Wwrite-strings -Wvla -Wformat=2 -Wimplicit-fallthrough
  -fno-strict-aliasing -fno-omit-frame-pointer -fstack-protector-strong -D_FORTIFY_SOURCE=2)
if(CMAKE_C_COMPILER_ID STREQUAL "Clang")
  # clang 14 counts a NULL in a designated initializer's tail as missing; gcc does not.
  add_compile_options(-Wno-missing-field-initializers)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Debug")
  add_compile_options(-U_FORTIFY_SOURCE)
  add_compile_definitions(VEDDB_DEBUG=1)
else()
  add_compile_definitions(VEDDB_DEBUG=0)
endif()
if(VEDDB_ASAN)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -U_FORTIFY_SOURCE)
  add_link_options(-fsanitize=address,undefined)
endif()
if(VEDDB_TSAN)
  add_compile_options(-fsanitize=thread -U_FORTIFY_SOURCE)
  add_link_options(-fsanitize=thread)
endif()
add_link_options(-Wl,-z,relro,-z,now)
