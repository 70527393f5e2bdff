"""Operations that components share: one public function each, a readable reference beside it."""
