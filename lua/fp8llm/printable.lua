--- Text from files, for a terminal: control characters, which it would obey, become '?'; line ends and tabs stay.
return function(text)
  return (text:gsub("[%z\1-\8\11-\31\127]", "?"):gsub("\194[\128-\159]", "??"))
end
