-- The command fp8llm: see lua/fp8llm.sh, which starts it.
print("fp8llm " .. require("fp8llm")._VERSION)
