# find_package(chainrule): the target chainrule::chainrule of an installed wheel. `python -m chainrule --cmakedir` finds it.
get_filename_component(_root "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
if(NOT TARGET chainrule::chainrule)
  add_library(chainrule::chainrule SHARED IMPORTED)
  file(GLOB _library "${_root}/lib/libchainrule.*" "${_root}/lib/chainrule.dll")
  set_target_properties(chainrule::chainrule PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_root}/include"
    IMPORTED_LOCATION "${_library}")
  if(WIN32)
    set_target_properties(chainrule::chainrule PROPERTIES IMPORTED_IMPLIB "${_root}/lib/chainrule.lib")
  endif()
endif()
unset(_root)
unset(_library)
