"""What a run is, and its clock. Imports without torch: `import benchmark` costs nothing until a module is asked for."""
